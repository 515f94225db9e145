"""The log: append, load, follow. The only way our services read and write events."""

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from events import fresh
from events.address import Address
from events.base import Event
from events.envelope import Cause, Recorded
from schema.streams import LOG
from services.kit.batches import Stamped
from services.kit.errors import Refused
from services.kit.log_append import IN_FLIGHT_MAX, STUCK_AFTER, Appender
from services.kit.log_follow import Follower
from services.kit.log_read import Reader
from services.kit.message import RawMessage, decode, encode, to_nanoseconds
from services.kit.wire import Wire, integer, mapping, text

APPEND_DEADLINE_S = 30.0
FOLLOW_BATCH = 500


@dataclass(frozen=True, slots=True)
class Write:
    """What is to be said of one aggregate."""

    address: Address
    expected: int
    """Seq of the aggregate's last event as the writer knows it; 0: it has none."""
    events: tuple[Event, ...]
    ids: tuple[UUID, ...] | None = None
    """One per event, when they must come out the same twice; else fresh ones."""


@dataclass(frozen=True, slots=True)
class Appended:
    """Where an append was stored."""

    seq: int
    """Of its last event; also the token for "at least this seq"."""


@dataclass(frozen=True, slots=True)
class History:
    """The events of an aggregate."""

    events: tuple[Recorded, ...]
    seq: int
    """Of the last event; where there is none the seq that was asked after (0: the aggregate is new)."""


@dataclass(frozen=True, slots=True)
class Extent:
    """How far the log reaches, and which log it is."""

    first_seq: int
    last_seq: int
    messages: int
    size_bytes: int
    created_at: datetime


class Log:
    """The stream LOG over one connection."""

    def __init__(
        self, wire: Wire, stream: str = LOG, *, in_flight_max: int = IN_FLIGHT_MAX, monitor_url: str | None = None
    ) -> None:
        self._wire = wire
        self._stream = stream
        self.reader = Reader(wire, stream)
        self.appender = Appender(wire, stream, self.reader, in_flight_max, monitor_url)

    async def append(self, *writes: Write, cause: Cause, deadline_s: float = APPEND_DEADLINE_S) -> Appended:
        """Store all events of all writes, or none, durably.

        Independent calls that run at once share a commit. Within the deadline a lost answer is found out by the ids.

        Raises:
            Conflict: An aggregate has moved on; load it and decide again.
            Refused: It can never be stored so (`LogFull`, `IdReused`, too large).
            Transient: The deadline passed; with the same ids it is safe to try again.
        """
        at = fresh.now()
        parts = tuple([_stamp(write, cause, at) for write in writes])
        if len(parts) != 1 and (not parts or len({part.address for part in parts}) != len(parts)):
            raise Refused(f"an append needs each aggregate once, got {[str(part.address) for part in parts]}")
        return Appended(await self.appender.append(parts, deadline_s))

    @property
    def stuck(self) -> bool:
        """Whether the server, though connected, has left several appends in a row unanswered."""
        return self.appender.unanswered >= STUCK_AFTER

    async def load(self, address: Address, after: int = 0) -> History:
        """Return an aggregate's events after a seq, oldest first."""
        events = tuple(decode(message) for message in await self.reader.read(address, after))
        return History(events, events[-1].seq if events else after)

    async def last(self, address: Address) -> Recorded | None:
        message = await self.reader.last(address.filter())
        return decode(message) if message else None

    async def event(self, seq: int) -> Recorded | None:
        message = await self.reader.get(seq)
        return decode(message) if message else None

    async def follow(
        self, after: int = 0, filters: Sequence[str] = (), *, batch: int = FOLLOW_BATCH, stop_at_end: bool = False
    ) -> AsyncGenerator[list[Recorded]]:
        """Yield events after a seq as they arrive, for ever or up to the present end; survives server restarts.

        Raises:
            LogGap, LogRegressed: The log is damaged; halt.
            ValueError: An event that this version cannot read; halt.
        """
        async with aclosing(self.follow_raw(after, filters, batch=batch, stop_at_end=stop_at_end)) as batches:
            async for messages in batches:
                yield [decode(message) for message in messages]

    def follow_raw(
        self, after: int = 0, filters: Sequence[str] = (), *, batch: int = FOLLOW_BATCH, stop_at_end: bool = False
    ) -> AsyncGenerator[list[RawMessage]]:
        """As `follow`, nothing parsed; batches of 5000 read more than 100,000 messages a second."""
        return Follower(self._wire, self._stream, after, filters, batch).batches(stop_at_end=stop_at_end)

    async def extent(self) -> Extent:
        info = await self._wire.api(f"STREAM.INFO.{self._stream}")
        state = mapping(info["state"])
        return Extent(
            first_seq=integer(state["first_seq"]),
            last_seq=integer(state["last_seq"]),
            messages=integer(state["messages"]),
            size_bytes=integer(state["bytes"]),
            created_at=_when(text(info["created"])),
        )

    async def end(self) -> int:
        """Return the seq of the last event."""
        return (await self.extent()).last_seq


def _when(stamp: str) -> datetime:
    return RawMessage(0, b"", b"", b"", to_nanoseconds(stamp)).recorded_at


def _stamp(write: Write, cause: Cause, at: datetime) -> Stamped:
    ids = write.ids or [fresh.uuid7() for _ in write.events]
    if not write.events or len(ids) != len(write.events):
        raise Refused(f"{len(write.events)} events with {len(ids)} ids for {write.address}")
    pieces = tuple([encode(write.address, event, ids[number], cause, at) for number, event in enumerate(write.events)])
    return Stamped(write.address, write.expected, pieces)
