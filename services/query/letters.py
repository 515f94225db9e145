"""What went wrong at the door (rejected) and behind it (dead letters): read from their streams, newest first."""

import asyncio
from collections import deque
from collections.abc import Mapping
from contextlib import aclosing
from typing import cast

import orjson
from starlette.responses import Response

from events.address import is_token
from services.kit.bus import Bus
from services.kit.dead import find, letters, retry
from services.kit.errors import KitError, Refused, Transient
from services.kit.log_follow import Follower
from services.kit.wire import integer, mapping
from services.query.http import Asked, json_response
from services.query.parameters import Parameter, a_number, by_number, by_text
from services.query.problems import HttpProblem, bad_parameter, not_found, unavailable

REJECTED_STREAM = "REJECTED"
SCANNED_MAX = 20_000
"""So many of the last refusals of all projects are looked through."""
LIMIT_DEFAULT = 50
LIMIT_MAX = 500
READ_S_MAX = 10.0
RETRY_S_MAX = 65.0
BATCH = 500
SEQ_MAX = 2**53


class Letters:
    """Handlers of the two streams that nobody hopes for."""

    REJECTED: tuple[Parameter, ...] = (
        by_text("project"),
        by_number("limit", least=1, most=LIMIT_MAX, meaning=f"{LIMIT_DEFAULT} unless told"),
    )
    DEAD: tuple[Parameter, ...] = (by_number("limit", least=1, most=LIMIT_MAX, meaning=f"{LIMIT_MAX} unless told"),)

    def __init__(self, bus: Bus) -> None:
        self._bus = bus

    async def rejected(self, asked: Asked) -> Response:
        """The last refusals for the caller's projects; those whose subject names no project only for every project."""
        newest: deque[dict[str, object]] = deque(maxlen=asked.number("limit", LIMIT_DEFAULT))
        filters = _projects(asked)
        if filters:
            state = mapping((await self._bus.wire.api(f"STREAM.INFO.{REJECTED_STREAM}"))["state"])
            after = max(integer(state["first_seq"]) - 1, integer(state["last_seq"]) - SCANNED_MAX, 0)
            found = Follower(self._bus.wire, REJECTED_STREAM, after, filters, BATCH).batches(stop_at_end=True)
            async with asyncio.timeout(READ_S_MAX), aclosing(found):
                async for batch in found:
                    newest.extend({"seq": message.seq, **_record(message.data)} for message in batch)
        return json_response({"items": list(reversed(newest)), "next": None})

    async def dead(self, asked: Asked) -> Response:
        newest: deque[dict[str, object]] = deque(maxlen=asked.number("limit", LIMIT_MAX))
        async with asyncio.timeout(READ_S_MAX), aclosing(letters(self._bus)) as found:
            async for letter in found:
                newest.append({"id": letter.seq, "whole": letter.whole, **letter.letter.model_dump(mode="json")})
        return json_response({"items": list(reversed(newest)), "next": None})

    async def retry(self, asked: Asked) -> Response:
        """Have the handler try once more, now; the letter goes when it went well."""
        try:
            seq = a_number(asked.id, 1, SEQ_MAX)
            letter = await find(self._bus, seq)
        except (ValueError, KitError):
            raise not_found("dead letter", asked.id) from None
        try:
            async with asyncio.timeout(RETRY_S_MAX):
                await retry(self._bus, seq)
        except Refused as error:
            raise HttpProblem(409, "failed_again", str(error)[:2_000], value=str(seq)) from error
        except Transient as error:
            raise unavailable(str(error)[:400], f"is the service {letter.letter.service} running?") from error
        said = {"id": seq, "service": letter.letter.service, "subject": letter.letter.subject}
        return json_response(said, 202)


def _projects(asked: Asked) -> list[str]:
    """The subject filters for what is asked and may be seen; none: nothing may."""
    project, caller = asked.text("project"), asked.caller
    if project is not None:
        if not is_token(project):
            raise bad_parameter("project", project, "a project's slug")
        return [f"rejected.{caller.must_see(project)}.>"]
    return ["rejected.>"] if caller.projects is None else [f"rejected.{slug}.>" for slug in caller.projects]


def _record(data: bytes) -> Mapping[str, object]:
    """A record as its stream holds it; whatever else lies there is shown, not stumbled over."""
    try:
        content: object = orjson.loads(data)
    except orjson.JSONDecodeError:
        content = None
    if isinstance(content, dict):
        return cast("Mapping[str, object]", content)
    return {"problem": {"code": "unreadable", "message": f"{len(data)} bytes that are no record"}}
