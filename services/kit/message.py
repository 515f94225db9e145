"""How an event looks on the wire: written fast, read back exactly."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from typing import NamedTuple
from urllib.parse import quote
from uuid import UUID

from events import ids, registry
from events.address import Address, parse
from events.base import Event
from events.envelope import MSG_ID, Cause, Envelope, Recorded, from_headers
from schema.streams import TIMERS
from services.kit.errors import Refused
from services.kit.wire import Reply, parse_headers

TIMER_ACTOR = "timers"
_SAFE = "!#$&'()*+,-./:;<=>?@[\\]^_`{|}~"
_NANOSECONDS = 1_000_000_000


@dataclass(frozen=True, slots=True)
class RawMessage:
    """A stored message, nothing parsed yet but where it stands."""

    seq: int
    subject_bytes: bytes
    header: bytes
    data: bytes
    recorded_ns: int
    pending: int = 0
    """How many more the server had when it sent this one; 0: the end of the log."""

    @property
    def subject(self) -> str:
        return self.subject_bytes.decode("utf-8", "backslashreplace")

    @property
    def headers(self) -> dict[str, str]:
        """The headers; parsed at each call."""
        return parse_headers(self.header) if self.header else {}

    @property
    def recorded_at(self) -> datetime:
        return from_nanoseconds(self.recorded_ns)


class Piece(NamedTuple):
    """One event ready to be sent: subject, header lines without the block's first line, body."""

    id: str
    subject: bytes
    headers: bytes
    body: bytes


def from_nanoseconds(stamp_ns: int) -> datetime:
    seconds, rest = divmod(stamp_ns, _NANOSECONDS)
    return datetime.fromtimestamp(seconds, UTC).replace(microsecond=rest // 1000)


def encode(address: Address, event: Event, event_id: UUID, cause: Cause, occurred_at: datetime) -> Piece:
    """Return what `events.envelope.to_headers` says, as bytes, with the parts that repeat kept."""
    type_name = type(event).__name__
    if event.aggregate != address.aggregate:
        raise Refused(f"{type_name} happens to a {event.aggregate}, not to {address}")
    text = str(event_id)
    headers = (
        f"{MSG_ID}: {text}\r\nce-specversion: 1.0\r\nce-id: {text}\r\nce-source: autovibe/{address.project}\r\n"
        f"ce-type: {type_name}\r\nce-time: {_time(occurred_at)}\r\nce-schemaversion: {event.version}\r\n{_cause(cause)}"
    )
    return Piece(text, address.subject(type_name).encode(), headers.encode(), event.body())


def _time(at: datetime) -> str:
    return at.isoformat().replace("+00:00", "Z")


@lru_cache(maxsize=4096)
def _cause(cause: Cause) -> str:
    values = {
        "ce-actor": cause.actor,
        "ce-causation": str(cause.causation or ""),
        "ce-correlation": str(cause.correlation or ""),
        "ce-reason": cause.reason,
    }
    return "".join(f"{name}: {quote(value, safe=_SAFE)}\r\n" for name, value in values.items() if value)


def decode(message: RawMessage) -> Recorded:
    """Read a message of the log.

    Raises:
        ValueError: Not written by our services: bad subject, unknown type, no envelope, or a body that does not fit.
    """
    envelope = envelope_of(message)
    return Recorded(message.seq, message.recorded_at, envelope, registry.parse(envelope.type, message.data))


def envelope_of(message: RawMessage) -> Envelope:
    """Read what travels beside the event, also of a fired timer, which has few headers; raises as `decode`."""
    address, type_name = parse(message.subject)
    headers = message.headers
    source = headers.get("Nats-Stream-Source")
    if source is not None:
        return _fired(address, type_name, source, headers, message.recorded_at)
    return from_headers(address, type_name, headers)


def _fired(
    address: Address, type_name: str, source: str, headers: Mapping[str, str], recorded_at: datetime
) -> Envelope:
    """A timer was copied in by the server: its id is where it came from, because a schedule's own headers repeat."""
    stream, seq = (*source.split(" "), "", "")[:2]
    if stream != TIMERS or not seq.isdigit():
        raise ValueError(f"Nats-Stream-Source {source[:200]!r} is not `{TIMERS} <seq> …`")
    correlation = headers.get("ce-correlation")
    return Envelope(
        address=address,
        type=type_name,
        version=int(headers.get("ce-schemaversion", "1")),
        cause=Cause(TIMER_ACTOR, None, UUID(correlation) if correlation else None),
        id=ids.derived("timer", stream, seq, address.id),
        occurred_at=recorded_at,
    )


def from_delivery(subject: bytes, reply: bytes, header: bytes, data: bytes) -> RawMessage:
    """Read where a consumer's message stands from its reply subject (both forms of it)."""
    tokens = reply.split(b".")
    at = 2 if len(tokens) < 11 else 4
    return RawMessage(int(tokens[at + 3]), subject, header, data, int(tokens[at + 5]), int(tokens[at + 6]))


def from_direct(reply: Reply) -> RawMessage:
    """Read a direct-get answer, whose place stands in headers beside the message's own."""
    headers = parse_headers(reply.header)
    return RawMessage(
        int(headers["Nats-Sequence"]),
        headers["Nats-Subject"].encode(),
        reply.header,
        reply.data,
        to_nanoseconds(headers["Nats-Time-Stamp"]),
    )


def to_nanoseconds(stamp: str) -> int:
    """Read an RFC 3339 time with up to nine decimal places, which `datetime` would cut."""
    whole, _, fraction = stamp.rstrip("Z").partition(".")
    seconds = int(datetime.fromisoformat(whole).replace(tzinfo=UTC).timestamp())
    return seconds * _NANOSECONDS + int(fraction.ljust(9, "0") or 0)
