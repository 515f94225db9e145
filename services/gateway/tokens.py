"""Who may call: the tokens of machines, their epochs and their projects' policies, folded from the log.

Only the newest live incarnation of a machine may call; when it is over its calls are cut. Only digests are ever kept.
"""

import asyncio
import hashlib
import hmac
from collections import defaultdict
from collections.abc import AsyncGenerator, Callable, Generator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field
from datetime import datetime
from fnmatch import fnmatchcase
from uuid import UUID

import structlog

from events import fresh
from events import machine as m
from events.credential import CredentialIssued, CredentialRevoked
from events.envelope import Recorded
from events.project import AgentPolicy, CheckpointPolicy, ProjectCreated, ProjectUpdated
from events.words import Hold
from services.kit.health import Health, Part
from services.kit.log import Log

FILTERS = ("av.*.credential.*.*", "av.*.machine.*.*", "av.*.project.*.*")
TOKEN_CHARS_MAX = 512
_log: structlog.stdlib.BoundLogger = structlog.get_logger("gateway")


@dataclass(frozen=True, slots=True)
class Caller:
    """Whose token it is."""

    project: str
    machine_id: UUID
    epoch: int


@dataclass(frozen=True, slots=True)
class _Token:
    digest: str
    caller: Caller
    expires_at: datetime | None


@dataclass(slots=True)
class _Machine:
    epoch: int = 0
    alive: bool = False
    holds: dict[Hold, m.MachineHeld] = field(default_factory=dict[Hold, m.MachineHeld])


@dataclass(frozen=True, slots=True)
class Policies:
    """What a project wants of its machines' calls."""

    agent: AgentPolicy
    checkpoints: CheckpointPolicy


_DEFAULT = Policies(AgentPolicy(), CheckpointPolicy())


class Tokens:
    """Follows the log; `following()` returns when all of the present is known."""

    def __init__(self, log: Log) -> None:
        self._log = log
        self._by_digest: dict[str, _Token] = {}
        self._digests: dict[str, str] = {}
        self._machines: dict[UUID, _Machine] = {}
        self._policies: dict[str, Policies] = {}
        self._cuts: defaultdict[tuple[UUID, int], set[Callable[[], None]]] = defaultdict(set)
        self._task: asyncio.Task[None] | None = None
        self.position = 0

    @asynccontextmanager
    async def following(self) -> AsyncGenerator["Tokens"]:
        async for batch in self._log.follow(self.position, FILTERS, stop_at_end=True):
            self.take(batch)
        self._task = asyncio.create_task(self._follow())
        try:
            yield self
        finally:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task

    def caller(self, token: str) -> Caller | None:
        """Return whose token this is, if that incarnation may call now; None: nobody's, revoked, expired or fenced."""
        if not token or len(token) > TOKEN_CHARS_MAX:
            return None
        digest = hashlib.sha256(token.encode("utf-8", "surrogatepass")).hexdigest()
        known = self._by_digest.get(digest)
        # The lookup is by digest, so its timing does not help to find a token; the comparison tells nothing at all.
        if known is None or not hmac.compare_digest(known.digest, digest):
            return None
        if known.expires_at is not None and known.expires_at <= fresh.now():
            return None
        return known.caller if self.lives(known.caller.machine_id, known.caller.epoch) else None

    def lives(self, machine_id: UUID, epoch: int) -> bool:
        """Whether this is the machine's newest incarnation, and not over."""
        machine = self._machines.get(machine_id)
        return machine is not None and machine.alive and machine.epoch == epoch

    def held(self, machine_id: UUID) -> m.MachineHeld | None:
        """Return what the machine's present incarnation is to park for; None: nothing."""
        machine = self._machines.get(machine_id)
        return next(iter(machine.holds.values()), None) if machine else None

    def policies(self, project: str) -> Policies:
        return self._policies.get(project, _DEFAULT)

    def may_use(self, project: str, model: str) -> bool:
        allowed = self.policies(project).agent.models_allowed
        return not allowed or any(fnmatchcase(model, pattern) for pattern in allowed)

    @contextmanager
    def bound(self, caller: Caller, cut: Callable[[], None]) -> Generator[None]:
        """Have `cut` called when the incarnation is over while the body runs."""
        key = (caller.machine_id, caller.epoch)
        self._cuts[key].add(cut)
        try:
            yield
        finally:
            cuts = self._cuts[key]
            cuts.discard(cut)
            if not cuts:
                del self._cuts[key]

    def health(self) -> Health:
        alive = self._task is not None and not self._task.done()
        return Health((Part("tokens", ok=alive, detail=f"{len(self._by_digest)} tokens, seq {self.position}"),))

    async def _follow(self) -> None:
        try:
            async for batch in self._log.follow(self.position, FILTERS):
                self.take(batch)
        except Exception:
            _log.exception("tokens.lost")
            raise

    def take(self, batch: list[Recorded]) -> None:
        for recorded in batch:
            self.position = recorded.seq
            address = recorded.envelope.address
            match recorded.event:
                case CredentialIssued() | CredentialRevoked() as event:
                    self._credential(address.id, event)
                case m.MachineEvent() as event:
                    self._machine(UUID(address.id), event)
                case ProjectCreated() as event:
                    self._policies[address.project] = Policies(event.agent_policy, event.checkpoint_policy)
                case ProjectUpdated() as event:
                    known = self.policies(address.project)
                    self._policies[address.project] = Policies(
                        event.agent_policy or known.agent, event.checkpoint_policy or known.checkpoints
                    )
                case _:
                    pass

    def _credential(self, credential_id: str, event: CredentialIssued | CredentialRevoked) -> None:
        match event:
            case CredentialIssued(
                kind="machine", key_sha256=str(digest), machine_id=UUID() as machine_id, epoch=int(epoch)
            ):
                caller = Caller(event.projects[0] if event.projects else "", machine_id, epoch)
                self._by_digest[digest] = _Token(digest, caller, event.expires_at)
                self._digests[credential_id] = digest
            case CredentialRevoked():
                token = self._by_digest.pop(self._digests.pop(credential_id, ""), None)
                if token is not None and not self._has_token(token.caller):
                    self._cut(token.caller.machine_id, token.caller.epoch)
            case _:
                pass

    def _has_token(self, caller: Caller) -> bool:
        return any(token.caller == caller for token in self._by_digest.values())

    def _machine(self, machine_id: UUID, event: m.MachineEvent) -> None:
        machine = self._machines.get(machine_id)
        if machine is None:
            if not isinstance(event, m.MachineProvisioningStarted):
                return
            machine = self._machines[machine_id] = _Machine()
        match event:
            case m.MachineProvisioningStarted(epoch=epoch) if epoch > machine.epoch:
                self._cut(machine_id, machine.epoch)
                machine.epoch, machine.alive = epoch, True
                machine.holds.clear()
            case m.MachineHeld(epoch=epoch) if epoch == machine.epoch:
                machine.holds[event.hold] = event
            case m.MachineResumed():
                machine.holds.pop(event.hold, None)
            case m.MachineParked() | m.MachineRecoveryStarted() | m.MachineQuarantined() | m.MachineEndingStarted():
                machine.alive = False
                self._cut(machine_id, machine.epoch)
            case m.MachineEnded():
                self._cut(machine_id, machine.epoch)
                del self._machines[machine_id]
            case _:
                pass

    def _cut(self, machine_id: UUID, epoch: int) -> None:
        for cut in tuple(self._cuts.get((machine_id, epoch), ())):
            cut()
