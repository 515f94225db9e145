"""API keys: who holds one, folded from the log into memory. Only digests are ever kept."""

import asyncio
import hashlib
import hmac
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import datetime

import structlog

from events import fresh
from events.credential import CredentialIssued, CredentialRevoked
from events.envelope import Recorded
from events.words import Role
from services.kit.health import Health, Part
from services.kit.log import Log

FILTERS = ("av.*.credential.*.CredentialIssued", "av.*.credential.*.CredentialRevoked")
KEY_CHARS_MAX = 512

_log: structlog.stdlib.BoundLogger = structlog.get_logger("apikeys")


@dataclass(frozen=True, slots=True)
class Principal:
    """Who asks."""

    role: Role
    projects: tuple[str, ...]
    """Slugs it may see; empty: all for an admin, none for anybody else."""
    name: str
    credential_id: str

    def may_see(self, project: str) -> bool:
        return project in self.projects or (self.role is Role.ADMIN and not self.projects)

    @property
    def may_write(self) -> bool:
        return self.role in {Role.OPERATOR, Role.ADMIN}


@dataclass(frozen=True, slots=True)
class _Key:
    digest: str
    principal: Principal
    expires_at: datetime | None


class ApiKeys:
    """Follows the log; `following()` returns when all keys of the present are known."""

    def __init__(self, log: Log) -> None:
        self._log = log
        self._by_digest: dict[str, _Key] = {}
        self._digests: dict[str, str] = {}
        self._position = 0
        self._task: asyncio.Task[None] | None = None

    @asynccontextmanager
    async def following(self) -> AsyncGenerator["ApiKeys"]:
        async for batch in self._log.follow(self._position, FILTERS, stop_at_end=True):
            self._take(batch)
        self._task = asyncio.create_task(self._follow())
        try:
            yield self
        finally:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task

    def authenticate(self, bearer: str) -> Principal | None:
        """Return whose key this is; None: nobody's, revoked or expired."""
        if not bearer or len(bearer) > KEY_CHARS_MAX:
            return None
        digest = hashlib.sha256(bearer.encode("utf-8", "surrogatepass")).hexdigest()
        key = self._by_digest.get(digest)
        # The lookup is by digest, so its timing does not help to find a key; the comparison tells nothing at all.
        if key is None or not hmac.compare_digest(key.digest, digest):
            return None
        if key.expires_at is not None and key.expires_at <= fresh.now():
            return None
        return key.principal

    def health(self) -> Health:
        alive = self._task is not None and not self._task.done()
        return Health((Part("api keys", ok=alive, detail=f"{len(self._by_digest)} keys, seq {self._position}"),))

    async def _follow(self) -> None:
        try:
            async for batch in self._log.follow(self._position, FILTERS):
                self._take(batch)
        except Exception:
            _log.exception("keys.lost")
            raise

    def _take(self, batch: list[Recorded]) -> None:
        for recorded in batch:
            self._position = recorded.seq
            credential_id = recorded.envelope.address.id
            match recorded.event:
                case CredentialIssued(kind="api_key", key_sha256=str(digest)) as issued:
                    principal = Principal(issued.role, issued.projects, issued.name, credential_id)
                    self._by_digest[digest] = _Key(digest, principal, issued.expires_at)
                    self._digests[credential_id] = digest
                case CredentialRevoked():
                    self._by_digest.pop(self._digests.pop(credential_id, ""), None)
                case _:
                    pass
