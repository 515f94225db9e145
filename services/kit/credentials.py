"""How a service gets credentials for a machine from the issuer, and how it has them revoked."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Protocol, cast
from uuid import UUID

import nats.errors
from nats.aio.client import Client
from nats.micro.request import ERROR_CODE_HEADER, ERROR_HEADER

ISSUER_TIMEOUT_S = 10.0


class CredentialsError(Exception):
    """The base of what can go wrong with credentials."""


class CredentialsRefused(CredentialsError):
    """The issuer will never do this; asking again changes nothing."""


class IssuerUnreachable(CredentialsError):
    """Nobody answered, or the issuer could not do it now; ask again, both verbs are idempotent."""


@dataclass(frozen=True, slots=True)
class MachineCredentials:
    """What an incarnation connects with. Empty on a server without authentication."""

    credential_id: UUID | None = None
    creds: str = field(default="", repr=False)
    """Text of a creds file; a secret."""
    expires_at: datetime | None = None
    gateway_token: str = field(default="", repr=False)
    """What this epoch shows the gateway; a secret."""


class CredentialSource(Protocol):
    """Where an incarnation's credentials come from. Both verbs are idempotent by machine and epoch."""

    async def machine(self, project: str, machine_id: UUID, epoch: int, ttl_s: int) -> MachineCredentials:
        """Let this epoch speak for `ttl_s` seconds; asked again, it gets new credentials beside the old ones.

        Raises:
            CredentialsRefused: There is no such project, or the time to live is out of bounds.
            IssuerUnreachable: Ask again.
        """
        ...

    async def revoke(self, project: str, machine_id: UUID, epoch: int, reason: str = "") -> None:
        """Make all credentials of this epoch worthless and cut its connections; nothing to do is no error.

        Raises:
            IssuerUnreachable: Ask again.
        """
        ...


class NoCredentials:
    """For a server that asks nobody who they are."""

    async def machine(self, project: str, machine_id: UUID, epoch: int, ttl_s: int) -> MachineCredentials:
        del project, machine_id, epoch, ttl_s
        return MachineCredentials()

    async def revoke(self, project: str, machine_id: UUID, epoch: int, reason: str = "") -> None:
        del project, machine_id, epoch, reason


class IssuerClient:
    """The issuer, over the bus; only inside HUB."""

    def __init__(self, nc: Client, *, actor: str = "spawner", timeout_s: float = ISSUER_TIMEOUT_S) -> None:
        """`actor`: who history shows as having asked."""
        self._nc = nc
        self._actor = actor
        self._timeout_s = timeout_s

    async def machine(self, project: str, machine_id: UUID, epoch: int, ttl_s: int) -> MachineCredentials:
        answer = await self._ask(
            "issuer.machine", {"project": project, "machine_id": str(machine_id), "epoch": epoch, "ttl_s": ttl_s}
        )
        return MachineCredentials(
            credential_id=UUID(str(answer["credential_id"])),
            creds=str(answer["creds"]),
            expires_at=datetime.fromisoformat(str(answer["expires_at"])),
            gateway_token=str(answer.get("gateway_token", "")),
        )

    async def revoke(self, project: str, machine_id: UUID, epoch: int, reason: str = "") -> None:
        asked = {"project": project, "machine_id": str(machine_id), "epoch": epoch, "reason": reason}
        await self._ask("issuer.revoke", asked)

    async def _ask(self, subject: str, asked: Mapping[str, object]) -> Mapping[str, object]:
        try:
            reply = await self._nc.request(
                subject, json.dumps(asked).encode(), timeout=self._timeout_s, headers={"ce-actor": self._actor}
            )
        except (nats.errors.Error, TimeoutError) as error:
            raise IssuerUnreachable(f"{subject}: no answer within {self._timeout_s} s: {error!r}") from error
        headers = reply.headers or {}
        if (code := headers.get(ERROR_CODE_HEADER)) is not None:
            said = f"{subject}: {code} {headers.get(ERROR_HEADER, '')}"
            raise (CredentialsRefused if code.startswith("4") else IssuerUnreachable)(said)
        return cast("Mapping[str, object]", json.loads(reply.data))
