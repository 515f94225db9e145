"""Messages of the log as rows of `events`, in PostgreSQL's binary COPY format; every event is validated on the way.

Binary rather than text: nothing has to be escaped, and the server parses neither times nor uuids.
"""

import gc
import re
import struct
import sys
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from functools import lru_cache
from typing import Final, LiteralString
from urllib.parse import unquote_to_bytes
from uuid import UUID

from pydantic import TypeAdapter, ValidationError

from events.address import BadSubject, parse
from events.base import Event
from events.ids import project_uuid
from events.registry import EVENTS
from services.kit.message import RawMessage, decode
from services.projector.chain import header_values, link

COLUMNS: Final[LiteralString] = (
    "seq, occurred_at, recorded_at, version, id, prev_hash, hash, project_uuid, aggregate_uuid, "
    "project, aggregate, aggregate_id, type, cause, correlation, actor, reason, body"
)
COPY: Final[LiteralString] = f"COPY events ({COLUMNS}) FROM STDIN (FORMAT BINARY)"
BATCH_BYTES_MAX = 16 * 1024 * 1024
"""Payload of one transaction; bounds what a batch holds in memory whatever its events' sizes."""
ADDRESSES_MAX = 50_000
"""Subjects whose parsed form is kept; ~0.5 KiB each."""
REPEATED_MAX = 8_192
"""Header values that are kept laid out: whole stories share causes, actors and reasons."""
TURN_S = 0.0005
"""How long another thread waits for its turn while a batch is prepared; Python's own 5 ms are as long as a commit."""

_HEADER = b"PGCOPY\n\xff\r\n\0" + struct.pack(">ii", 0, 0)
_TRAILER = struct.pack(">h", -1)
_FIXED = struct.Struct(">hiqiqiqiii16si32si32s")
_LENGTH = struct.Struct(">i")
_NULL = _LENGTH.pack(-1)
_DASH = ord("-")
_UUID_LENGTH = _LENGTH.pack(16)
_EPOCH = datetime(2000, 1, 1, tzinfo=UTC)
_EPOCH_MICROS = int(_EPOCH.timestamp()) * 1_000_000
# An odd number of backslashes before `u0000`: the escape of NUL, which jsonb cannot hold.
_NUL = re.compile(rb"(?<!\\)((?:\\\\)*)\\u0000")


@dataclass(slots=True)
class Batch:
    """Events in a row, ready to be written in one transaction."""

    after: int
    """seq before the first of them."""
    upto: int
    hash: bytes
    """The head of the chain after the last of them."""
    recorded_micros: int | None = None
    """When the log recorded the last of them, microseconds since 2000."""
    types: set[str] = field(default_factory=set[str])
    months: set[date] = field(default_factory=set[date])
    """First days of the months in which its events were recorded."""
    rows: list[bytes] = field(default_factory=list[bytes])
    previous: bytes = b""
    """The chain before the last of them."""
    month_from: int = 0
    month_to: int = 0
    broken: str | None = None
    """Why the event after `upto` cannot be projected; None: nothing is wrong."""

    def __len__(self) -> int:
        return self.upto - self.after

    @property
    def recorded_at(self) -> datetime | None:
        return None if self.recorded_micros is None else _EPOCH + timedelta(microseconds=self.recorded_micros)

    def copy_data(self) -> bytes:
        return b"".join([_HEADER, *self.rows, _TRAILER])


@dataclass(frozen=True, slots=True)
class _Place:
    """What a subject says but for the type, parsed once: each of an aggregate's events has another subject."""

    aggregate: str
    fields: bytes
    """project_uuid to aggregate_id as COPY wants them."""


@dataclass(frozen=True, slots=True)
class _Kind:
    """What there is to know of an event type."""

    type: str
    aggregate: str
    version: int
    validate: Callable[[bytes], Event]
    field: bytes


class Unreadable(ValueError):
    """This event cannot be projected by this version."""


def _text_field(raw: bytes) -> bytes:
    return _LENGTH.pack(len(raw)) + raw


_KINDS: Final = {
    name.encode(): _Kind(
        name, event.aggregate, event.version, TypeAdapter(event).validator.validate_json, _text_field(name.encode())
    )
    for name, event in EVENTS.items()
}


def cut(messages: Sequence[RawMessage], limit: int) -> Iterator[Sequence[RawMessage]]:
    """Cut so that no part has more than `limit` messages or, unless it is one message, BATCH_BYTES_MAX."""
    start = size = 0
    for index, message in enumerate(messages):
        size += len(message.data)
        if index > start and (index - start >= limit or size > BATCH_BYTES_MAX):
            yield messages[start:index]
            start, size = index, len(message.data)
    if start < len(messages):
        yield messages[start:]


def prepare(messages: Iterable[RawMessage], after: int, head: bytes) -> Batch:
    """Validate, chain and lay out the messages that follow `after`.

    What was delivered again is passed over. At the first gap or event that cannot be read the batch ends before it
    and `broken` says why. About 9 µs per event; the cyclic collector, which would double that, rests meanwhile.
    """
    batch = Batch(after, after, head)
    with _undisturbed():
        for message in messages:
            if message.seq <= batch.upto:
                continue
            if message.seq != batch.upto + 1:
                batch.broken = f"gap in the log: seq {message.seq} came after {batch.upto}"
                break
            try:
                _add(batch, message)
            except (ValidationError, ValueError, TypeError, OverflowError) as error:
                batch.broken = _why(message, error)
                break
    return batch


@contextmanager
def _undisturbed() -> Generator[None]:
    """Keep the cyclic collector away, and let the thread that writes have its turn soon.

    That thread takes a dozen turns per batch; each would wait 5 ms for this one, which were 15 µs per event.
    """
    collecting, interval_s = gc.isenabled(), sys.getswitchinterval()
    gc.disable()
    sys.setswitchinterval(TURN_S)
    try:
        yield
    finally:
        sys.setswitchinterval(interval_s)
        if collecting:
            gc.enable()


def _add(batch: Batch, message: RawMessage) -> None:
    seq, data = message.seq, message.data
    start, _, name = message.subject_bytes.rpartition(b".")
    place, kind = _place(start), _KINDS.get(name)
    if place is None or kind is None or kind.aggregate != place.aggregate:
        raise _unreadable(message.subject)
    kind.validate(data)
    values = header_values(message.header)
    made = link(batch.hash, seq, message.subject_bytes, values, data)
    id_, time, schema_version, actor, causation, correlation, reason, sourced = values
    if sourced:
        id_, time, actor, causation, correlation = _fired(message)
    version = int(schema_version or b"1")
    if version > kind.version:
        raise Unreadable(f"schema version {version} is newer than the {kind.version} this version knows")
    recorded = message.recorded_ns // 1000 - _EPOCH_MICROS
    occurred = _micros(datetime.fromisoformat(time.decode()))
    body = _NUL.sub(rb"\1\\ufffd", data) if b"\\u0000" in data else data
    row = (
        _FIXED.pack(18, 8, seq, 8, occurred, 8, recorded, 4, version, 16, _uuid(id_), 32, batch.hash, 32, made),
        place.fields,
        kind.field,
        _uuid_field(causation),
        _uuid_field(correlation),
        _header_field(actor),
        _header_field(reason),
        _LENGTH.pack(len(body) + 1),
        b"\x01",  # version of jsonb's binary format
        body,
    )
    batch.rows.append(b"".join(row))
    batch.types.add(kind.type)
    if not batch.month_from <= recorded < batch.month_to:
        _enter_month(batch, recorded)
    batch.previous, batch.hash = batch.hash, made
    batch.upto, batch.recorded_micros = seq, recorded


def _fired(message: RawMessage) -> tuple[bytes, bytes, bytes, bytes, bytes]:
    """A timer that the server copied in: who says it, and as what, is not in its own headers."""
    envelope = decode(message).envelope
    said = (
        *(str(envelope.id), envelope.occurred_at.isoformat(), envelope.cause.actor),
        *(str(envelope.cause.causation or ""), str(envelope.cause.correlation or "")),
    )
    id_, time, actor, causation, correlation = (value.encode() for value in said)
    return id_, time, actor, causation, correlation


@lru_cache(maxsize=ADDRESSES_MAX)
def _place(start: bytes) -> _Place | None:
    """Read a subject without its last token; None: it is no address."""
    try:
        address, _ = parse(f"{start.decode('utf-8', 'backslashreplace')}.Any")
    except BadSubject:
        return None
    fields = (
        _UUID_LENGTH + project_uuid(address.project).bytes,
        _aggregate_uuid(address.project, address.aggregate, address.id),
        *(_text_field(token.encode()) for token in (address.project, address.aggregate, address.id)),
    )
    return _Place(address.aggregate, b"".join(fields))


def _unreadable(subject: str) -> Unreadable:
    """Say what is wrong with a subject."""
    try:
        address, type_name = parse(subject)
    except BadSubject as error:
        return Unreadable(str(error))
    event = EVENTS.get(type_name)
    if event is None:
        return Unreadable(f"event type {type_name!r} is not known to this version")
    return Unreadable(f"{type_name} happens to a {event.aggregate}, not to a {address.aggregate}")


def _aggregate_uuid(project: str, aggregate: str, aggregate_id: str) -> bytes:
    """Return the field `aggregate_uuid`: null only where ids are free (timers)."""
    if aggregate_id == project:
        return _UUID_LENGTH + project_uuid(project).bytes
    try:
        return _UUID_LENGTH + UUID(aggregate_id).bytes
    except ValueError as error:
        if aggregate == "timer":
            return _NULL
        raise Unreadable(f"the id {aggregate_id!r} of a {aggregate} is no uuid") from error


def _micros(moment: datetime) -> int:
    """Return microseconds since 2000, PostgreSQL's own count; naive times are refused by the subtraction."""
    since = moment - _EPOCH
    return since.days * 86_400_000_000 + since.seconds * 1_000_000 + since.microseconds


def _enter_month(batch: Batch, micros: int) -> None:
    at = _EPOCH + timedelta(microseconds=micros)
    month = date(at.year, at.month, 1)
    batch.months.add(month)
    following = date(month.year + month.month // 12, month.month % 12 + 1, 1)
    batch.month_from, batch.month_to = (
        _micros(datetime(day.year, day.month, 1, tzinfo=UTC)) for day in (month, following)
    )


def _uuid(text: bytes) -> bytes:
    # A fifth of the time UUID() takes; anything but the usual form goes the long way.
    if len(text) == 36 and text[8] == text[13] == text[18] == text[23] == _DASH:
        raw = bytes.fromhex(text.replace(b"-", b"").decode())
        if len(raw) == 16:
            return raw
    return UUID(text.decode()).bytes


@lru_cache(maxsize=REPEATED_MAX)
def _uuid_field(text: bytes) -> bytes:
    return _UUID_LENGTH + _uuid(text) if text else _NULL


@lru_cache(maxsize=REPEATED_MAX)
def _header_field(value: bytes) -> bytes:
    """Undo the percent-encoding of header values; text in PostgreSQL cannot hold NUL."""
    if b"%" in value:
        value = unquote_to_bytes(value).decode("utf-8", "replace").replace("\0", "\ufffd").encode()
    return _text_field(value)


def _why(message: RawMessage, error: Exception) -> str:
    if isinstance(error, ValidationError):
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        return f"seq {message.seq} {message.subject}: body does not fit at {where or 'top'}: {first['msg']}"
    return f"seq {message.seq} {message.subject}: {error}"
