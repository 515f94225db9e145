"""What travels beside an event: CloudEvents 1.0 `ce-*` headers, binary mode, over NATS.

`Recorded` is an event as the log holds it. Header names are case-sensitive on the server; values are
percent-encoded because nats-py hands raw UTF-8 back as another type.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from urllib.parse import quote, unquote
from uuid import UUID

from events.address import Address
from events.base import Event

MSG_ID = "Nats-Msg-Id"
_SAFE = "!#$&'()*+,-./:;<=>?@[\\]^_`{|}~"


@dataclass(frozen=True, slots=True)
class Cause:
    """Why something happened: who, on whose word, in which story."""

    actor: str
    """`budget`, `spawner`, `client:<name>`, `project:<slug>`, `machine:<id>`."""
    causation: UUID | None = None
    """Id of the event that this one answers."""
    correlation: UUID | None = None
    """Id of the event that began the story; carried along unchanged."""
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Envelope:
    """Who said what to which aggregate, when and why. `occurred_at` is what the sayer claims; order is by seq."""

    address: Address
    type: str
    version: int
    cause: Cause
    id: UUID
    occurred_at: datetime


@dataclass(frozen=True, slots=True)
class Recorded:
    """An event as the log holds it. `seq` is the log's global sequence, `recorded_at` the server's clock."""

    seq: int
    recorded_at: datetime
    envelope: Envelope
    event: Event

    def caused(self, actor: str, reason: str = "") -> Cause:
        """The cause of whatever `actor` does in answer to this event."""
        return Cause(actor, self.envelope.id, self.envelope.cause.correlation or self.envelope.id, reason)


def to_headers(envelope: Envelope) -> dict[str, str]:
    cause = envelope.cause
    attributes = {
        "ce-specversion": "1.0",
        "ce-id": str(envelope.id),
        "ce-source": f"autovibe/{envelope.address.project}",
        "ce-type": envelope.type,
        "ce-time": envelope.occurred_at.isoformat().replace("+00:00", "Z"),
        "ce-schemaversion": str(envelope.version),
        "ce-actor": cause.actor,
        "ce-causation": str(cause.causation or ""),
        "ce-correlation": str(cause.correlation or ""),
        "ce-reason": cause.reason,
    }
    headers = {name: quote(value, safe=_SAFE) for name, value in attributes.items() if value}
    return {MSG_ID: str(envelope.id), **headers}


def from_headers(address: Address, type_name: str, headers: Mapping[str, str]) -> Envelope:
    """Read back what `to_headers` wrote.

    Raises:
        ValueError: An id or time is missing or malformed: the event was not written by our services.
    """

    def get(name: str) -> str:
        return unquote(str(headers.get(name, "")))

    def uuid_or_none(name: str) -> UUID | None:
        return UUID(text) if (text := get(name)) else None

    return Envelope(
        address=address,
        type=type_name,
        version=int(get("ce-schemaversion") or 1),
        cause=Cause(get("ce-actor"), uuid_or_none("ce-causation"), uuid_or_none("ce-correlation"), get("ce-reason")),
        id=UUID(get("ce-id")),
        occurred_at=datetime.fromisoformat(get("ce-time")),
    )
