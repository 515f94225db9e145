"""Credentials: who may speak on the bus or over HTTP. Never the secret itself; said by the issuer."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from events.base import Epoch, Event, Id, Name, Text, Time
from events.words import Role, Said

CredentialKind = Literal["client", "machine", "api_key", "operator"]


class CredentialEvent(Event):
    """The base of what happens to a credential; the aggregate's id is the credential's."""

    aggregate: ClassVar[str] = "credential"


class CredentialIssued(CredentialEvent):
    """Somebody may speak from now on until `expires_at`."""

    said_by: ClassVar[tuple[Said, ...]] = (Said.ISSUER,)

    kind: CredentialKind
    name: Name
    role: Role
    projects: Annotated[tuple[Name, ...], Field(max_length=1_000)] = ()
    """Slugs it is good for; empty with kind operator or role admin: all."""
    public_key: Annotated[str, Field(max_length=128)] | None = None
    """The NATS user key of a client, machine or operator."""
    key_sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")] | None = None
    """SHA-256 of an API key, or of a machine's gateway token: 256 random bits, so it needs no salt."""
    machine_id: Id | None = None
    epoch: Epoch | None = None
    expires_at: Time | None = None


class CredentialRevoked(CredentialEvent):
    """It is worth nothing from now on."""

    said_by: ClassVar[tuple[Said, ...]] = (Said.ISSUER,)

    reason: Text = ""
