"""The door, asked over the bus: the intake's (or the issuer's) micro service, with a deadline."""

from collections.abc import Mapping
from typing import Protocol, cast
from urllib.parse import quote

import orjson
from nats.micro.request import ERROR_CODE_HEADER, ERROR_HEADER

from events.address import Address, is_token
from services.kit.bus import Bus
from services.kit.errors import Transient
from services.kit.wire import Reply, parse_headers
from services.query.problems import STATUS_OF_CODE, HttpProblem, unavailable

DOOR_S_MAX = 10.0
ACTOR_CHARS_MAX = 150
_ACTOR_SAFE = "!#$&'()*+,-./:;<=>?@[]^_`{|}~ "


class Door(Protocol):
    """Where commands go."""

    async def ask(
        self, address: Address, type_name: str, body: bytes, *, client_id: str, actor: str
    ) -> Mapping[str, object]:
        """Return the answer, `{"seq", "id", …}`.

        Raises:
            HttpProblem: The refusal of who answered; or 503, nobody did, and asking again with the same client id is safe.
        """
        ...


class BusDoor:
    """Asks `ask.<project>.<aggregate>.<id>.<Type>` and says for whom: HUB's own services are believed."""

    def __init__(self, bus: Bus, *, deadline_s: float = DOOR_S_MAX) -> None:
        self._bus = bus
        self._deadline_s = deadline_s

    async def ask(
        self, address: Address, type_name: str, body: bytes, *, client_id: str, actor: str
    ) -> Mapping[str, object]:
        for field, token in (
            ("project", address.project),
            ("aggregate", address.aggregate),
            ("id", address.id),
            ("type", type_name),
        ):
            # What is sent is a line of the protocol: nothing but plain tokens may stand in it.
            if not is_token(token):
                raise HttpProblem(
                    422, "bad_subject", f"{field} is not of letters, digits, - and _", field=field, value=token[:80]
                )
        subject = address.subject(type_name, "ask")
        try:
            reply = await self._bus.wire.publish(subject, _headers(client_id, actor), body, self._deadline_s)
        except Transient as error:
            raise unavailable(
                f"the door does not answer: {error}", "ask again with the same Idempotency-Key"
            ) from error
        return answer_of(reply)


def _headers(client_id: str, actor: str) -> bytes:
    """Header values are one line of ASCII; a name is a human's choice and may hold anything."""
    name = quote(actor, safe=_ACTOR_SAFE)[:ACTOR_CHARS_MAX]
    return b"NATS/1.0\r\nce-id: %b\r\nce-actor: %b\r\n\r\n" % (quote(client_id, safe="").encode(), name.encode())


def answer_of(reply: Reply) -> Mapping[str, object]:
    """
    Raises:
        HttpProblem: The answer is a micro service's error; its body says why.
    """
    headers = parse_headers(reply.header) if reply.header else {}
    code = headers.get(ERROR_CODE_HEADER)
    try:
        content: object = orjson.loads(reply.data or b"{}")
    except orjson.JSONDecodeError:
        content = None
    said: Mapping[str, object] = cast("Mapping[str, object]", content) if isinstance(content, dict) else {}
    if code is not None:
        raise refusal(said, code, headers.get(ERROR_HEADER, ""))
    return said


def refusal(problem: Mapping[str, object], code: str, description: str) -> HttpProblem:
    """Turn what the door said into what HTTP says; a body that is no problem leaves the header's words."""
    said = {name: str(value) for name, value in problem.items()}
    word = said.get("code", "")
    if not word:
        status = int(code) if code.isdigit() and 400 <= int(code) < 500 else 503
        return HttpProblem(status, "refused" if status < 500 else "unavailable", description or "refused")
    status = STATUS_OF_CODE.get(word, 422)
    return HttpProblem(
        status,
        word,
        said.get("message", description),
        field=said.get("field", ""),
        value=said.get("value", ""),
        limit=said.get("limit", ""),
        remedy=said.get("remedy", ""),
        headers={"Retry-After": "1"} if status in {429, 503} else {},
    )
