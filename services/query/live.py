"""What goes on while a reader watches: events as server-sent events, output as lines of JSON.

Both come straight from the streams, not from the tables, so a watcher sees an event before the read model does. A
reader that is cut off asks again with the last sequence number it saw.
"""

import asyncio
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing, suppress
from typing import Protocol, cast

import orjson
from starlette.responses import Response

from events import address
from events.address import Address, is_token
from events.envelope import Recorded
from services.kit.bus import Bus
from services.kit.log_follow import Follower
from services.query.http import Asked, Caller
from services.query.parameters import WHOLE_MAX, Parameter, a_number, by_flag, by_number, by_text, by_uuid
from services.query.places import Kind, Places
from services.query.problems import HttpProblem, bad_parameter, not_found
from services.query.streaming import KEEP_ALIVE_S, Streams, or_silence

SSE = "text/event-stream"
NDJSON = "application/x-ndjson"
OUTPUT_STREAM = "OUTPUT"
OUTPUT_BATCH = 200
ENDS = frozenset({"MachineEnded", "MachineDenied"})


class Chosen(Protocol):
    """Whether a watcher asked for this event."""

    def __call__(self, recorded: Recorded) -> bool: ...


class Live:
    """The handlers that go on."""

    EVENTS: tuple[Parameter, ...] = (
        by_text("project"),
        by_text("aggregate"),
        by_text("id"),
        by_uuid("machine"),
        by_number("after", meaning="the event after which to begin; without it, and no Last-Event-ID, from now on"),
    )
    LOGS: tuple[Parameter, ...] = (
        by_flag("follow", "go on until the machine ends"),
        by_number("after", meaning="`seq` of the last line that was seen"),
        by_flag("raw", "the agent's own stream as it came, instead of what people read of it"),
    )

    def __init__(self, bus: Bus, places: Places, streams: Streams, *, keep_alive_s: float = KEEP_ALIVE_S) -> None:
        self._bus = bus
        self._places = places
        self._streams = streams
        self._keep_alive_s = keep_alive_s

    async def events(self, asked: Asked) -> Response:
        filters, chosen = _choice(asked)
        end = await self._bus.log.end()
        after = asked.number("after", _last_event_id(asked, end))
        if after > end:
            raise bad_parameter("after", str(after), f"at most {end}, the last event there is")
        return self._streaming(asked, self._sse(after, filters, chosen), SSE)

    async def logs(self, asked: Asked) -> Response:
        slug, machine_id = await self._places.find(Kind.MACHINE, asked.id, asked.caller)
        machine = address.machine(slug, machine_id)
        follow, raw = (bool(asked.values.get(name)) for name in ("follow", "raw"))
        lines = self._lines(machine, asked.number("after", 0), follow=follow, raw=raw)
        return self._streaming(asked, lines, NDJSON)

    def _streaming(self, asked: Asked, content: AsyncGenerator[bytes], media_type: str) -> Response:
        key = asked.caller.credential_id or asked.caller.name
        return self._streams.make(content, media_type, key=key, still_good=asked.still_good)

    async def _sse(self, after: int, filters: list[str], chosen: Chosen) -> AsyncGenerator[bytes]:
        yield b": here\n\n"
        async with (
            aclosing(self._bus.log.follow(after, filters)) as batches,
            aclosing(or_silence(batches, silence_s=self._keep_alive_s)) as heard,
        ):
            async for batch in heard:
                if batch is None:
                    yield b": still here\n\n"
                else:
                    yield b"".join(sse(recorded) for recorded in batch if chosen(recorded))

    async def _lines(self, machine: Address, after: int, *, follow: bool, raw: bool) -> AsyncGenerator[bytes]:
        subject = f"out.{machine.project}.{machine.id}.*"
        if follow:
            async with aclosing(self._following(machine, subject, after, raw=raw)) as lines:
                async for seq, line in lines:
                    after = max(after, seq)
                    yield line
        # What was printed before the end is stored before the end is said, so one more read to the end has it all.
        last = Follower(self._bus.wire, OUTPUT_STREAM, after, [subject], OUTPUT_BATCH).batches(stop_at_end=True)
        async with aclosing(last):
            async for batch in last:
                yield b"".join(output_lines(each.seq, each.subject, each.data, raw=raw) for each in batch)

    async def _following(
        self, machine: Address, subject: str, after: int, *, raw: bool
    ) -> AsyncGenerator[tuple[int, bytes]]:
        """Yield output until the machine's end is in the log."""
        ended = asyncio.create_task(self._ended(machine))
        batches = Follower(self._bus.wire, OUTPUT_STREAM, after, [subject], OUTPUT_BATCH).batches()
        try:
            async with aclosing(batches), aclosing(or_silence(batches, ended, silence_s=self._keep_alive_s)) as heard:
                async for batch in heard:
                    if batch is None:
                        yield 0, b"\n"
                    else:
                        lines = (output_lines(each.seq, each.subject, each.data, raw=raw) for each in batch)
                        yield batch[-1].seq, b"".join(lines)
        finally:
            ended.cancel()
            with suppress(asyncio.CancelledError):
                await ended

    async def _ended(self, machine: Address) -> None:
        async with aclosing(self._bus.log.follow(0, [machine.filter()])) as batches:
            async for batch in batches:
                if any(recorded.envelope.type in ENDS for recorded in batch):
                    return


def sse(recorded: Recorded) -> bytes:
    """One server-sent event; its data is what a page of events holds."""
    envelope = recorded.envelope
    item = {
        "seq": recorded.seq,
        "id": envelope.id,
        "project": envelope.address.project,
        "aggregate": envelope.address.aggregate,
        "aggregate_id": envelope.address.id,
        "type": envelope.type,
        "version": envelope.version,
        "occurred_at": envelope.occurred_at,
        "recorded_at": recorded.recorded_at,
        "actor": envelope.cause.actor,
        "cause": envelope.cause.causation,
        "correlation": envelope.cause.correlation,
        "reason": envelope.cause.reason,
        "body": orjson.Fragment(recorded.event.body()),
    }
    return b"id: %d\nevent: %b\ndata: %b\n\n" % (recorded.seq, envelope.type.encode(), orjson.dumps(item))


def output_lines(seq: int, subject: str, data: bytes, *, raw: bool = False) -> bytes:
    """Unpack one message of output: a JSON line or an array of them; each gets the seq and the epoch.

    Args:
        raw: Only lines of the agent's own stream; else all but those.
    """
    token = subject.rpartition(".")[2]
    epoch = int(token) if token.isascii() and token.isdigit() and len(token) < 10 else 0
    try:
        content: object = orjson.loads(data)
    except orjson.JSONDecodeError:
        content = {"n": 0, "s": "agent", "t": f"({len(data)} bytes that are no output of an agent)"}
    lines = cast("list[object]", content) if isinstance(content, list) else [content]
    return b"".join(
        orjson.dumps({**cast("Mapping[str, object]", line), "seq": seq, "epoch": epoch}) + b"\n"
        for line in lines
        if isinstance(line, dict) and (cast("Mapping[str, object]", line).get("s") == "raw") is raw
    )


def _last_event_id(asked: Asked, default: int) -> int:
    """Where a browser's EventSource goes on by itself."""
    text = asked.request.headers.get("last-event-id", "")
    try:
        return a_number(text, 0, WHOLE_MAX) if text else default
    except ValueError as error:
        raise bad_parameter("Last-Event-ID", text, "a sequence number") from error


def _choice(asked: Asked) -> tuple[list[str], Chosen]:
    """Turn parameters into subject filters and what is left to choose by looking at the event."""
    project, aggregate, identity = (asked.text(name) for name in ("project", "aggregate", "id"))
    for name, value in (("project", project), ("aggregate", aggregate), ("id", identity)):
        if value is not None and not is_token(value):
            raise bad_parameter(name, value, "of letters, digits, - and _")
    if project is None:
        if aggregate or identity or "machine" in asked.values:
            raise bad_parameter("project", "", "given, where aggregate, id or machine is")
        return _everything(asked.caller), _any
    if not asked.caller.may_see(project):
        raise not_found("project", project)
    if "machine" in asked.values:
        machine = str(asked.values["machine"])
        kinds = [f"av.{project}.machine.{machine}.>", f"av.{project}.budget.{machine}.>", f"av.{project}.checkpoint.>"]
        return kinds, AboutMachine(machine)
    return [f"av.{project}.{aggregate or '*'}.{identity or '*'}.>"], _any


def _everything(caller: Caller) -> list[str]:
    if caller.projects is None:
        return []
    if not caller.projects:
        raise HttpProblem(403, "not_allowed", "this key is good for no project")
    return [f"av.{slug}.>" for slug in caller.projects]


def _any(recorded: Recorded) -> bool:
    del recorded
    return True


class AboutMachine:
    """Chooses a machine's own events and those of its checkpoints."""

    def __init__(self, machine_id: str) -> None:
        self._machine_id = machine_id
        self._checkpoints: set[str] = set()

    def __call__(self, recorded: Recorded) -> bool:
        where = recorded.envelope.address
        if where.aggregate != "checkpoint":
            return True
        if str(getattr(recorded.event, "machine_id", None)) == self._machine_id:
            self._checkpoints.add(where.id)
        return where.id in self._checkpoints
