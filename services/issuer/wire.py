"""What is asked of the issuer, and what it answers."""

from typing import Annotated, Literal
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field

from events.base import Epoch, Name, Slug, Text, Time
from events.words import Role

Ttl = Annotated[int, Field(ge=1, le=3_660 * 86_400)]


class Ask(BaseModel):
    """The base of what is asked: unknown fields are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class MachineAsk(Ask):
    """`issuer.machine`: let an incarnation speak."""

    project: Slug
    machine_id: UUID
    epoch: Epoch
    ttl_s: Ttl | None = None


class RevokeAsk(Ask):
    """`issuer.revoke`: by credential, or by incarnation."""

    credential_id: UUID | None = None
    project: Slug | None = None
    machine_id: UUID | None = None
    epoch: Epoch | None = None
    reason: Text = ""


class CredentialRequested(Ask):
    """`ask._hub.credential.<uuid>.CredentialRequested`: the secret is in the answer and nowhere else."""

    kind: Literal["client", "api_key", "operator"]
    name: Name
    role: Role = Role.VIEWER
    projects: Annotated[tuple[Slug, ...], Field(max_length=1_000)] = ()
    ttl_s: Ttl | None = None


class CredentialRevokeRequested(Ask):
    """`ask._hub.credential.<uuid>.CredentialRevokeRequested`."""

    reason: Text = ""


class Issued(BaseModel):
    """A new credential; exactly one of `creds` and `api_key` is there."""

    model_config = ConfigDict(frozen=True)

    credential_id: UUID
    creds: Annotated[str | None, Field(repr=False)] = None
    """Text of a creds file."""
    api_key: Annotated[str | None, Field(repr=False)] = None
    gateway_token: Annotated[str | None, Field(repr=False)] = None
    """Beside `creds` for a machine: what this incarnation shows the gateway."""
    expires_at: Time
