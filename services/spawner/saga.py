"""The steps of a spawn, each beside its undo. All are idempotent by machine and epoch; any may fail and be done again.

Nothing is remembered between them but what the log says: after a crash the machine's phase says which are due.
"""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import datetime
from uuid import UUID

from domain.machine_state import Machine, goal_left_s
from domain.overview import Known, Project
from events.agent import AgentTool, MachineSpec
from events.machine import Limits
from events.words import MachineType
from hypervisors.port import Hypervisor, Usage, Vm
from services.kit.credentials import CredentialSource, MachineCredentials
from services.spawner.settings import SpawnerSettings

DEADLINE_MIN_S = 1.0


@dataclass(slots=True)
class Spawn:
    """One incarnation on its way, or on its way out."""

    project: str
    machine_id: UUID
    epoch: int
    ttl_s: int = 0
    """How long its credentials live."""
    credentials: MachineCredentials | None = None
    spec: MachineSpec | None = None
    vm: Vm | None = None
    usage: Usage = field(default_factory=Usage)


@dataclass(frozen=True, slots=True)
class Step:
    """Something done to the world, and how it is taken back."""

    name: str
    do: Callable[[Spawn], Awaitable[None]]
    undo: Callable[[Spawn], Awaitable[None]]


class Saga:
    """The world as the spawner changes it."""

    def __init__(self, hypervisor: Hypervisor, issuer: CredentialSource, settings: SpawnerSettings) -> None:
        self._hypervisor = hypervisor
        self._issuer = issuer
        self._settings = settings
        self.steps = (
            Step("credentials", self._mint, self._revoke),
            Step("incarnation", self._create, self._destroy),
        )

    async def prepare(self, spawn: Spawn) -> None:
        """Do the first step already, while the log is told that the incarnation is begun; it starts nothing."""
        await self.steps[0].do(spawn)

    async def run(self, spawn: Spawn) -> None:
        """Do all steps in order; those done already are found done."""
        for step in self.steps:
            await step.do(spawn)

    async def undo(self, spawn: Spawn) -> None:
        """Take all steps back: nothing of this epoch can speak or runs any more.

        All undos are tried even when one fails, so an issuer that is away does not keep a machine running.

        Raises:
            Unreachable, IssuerUnreachable: At least one could not be done; calling again is safe.
        """
        done = await asyncio.gather(*(step.undo(spawn) for step in self.steps), return_exceptions=True)
        for outcome in done:
            if isinstance(outcome, BaseException):
                raise outcome

    async def _mint(self, spawn: Spawn) -> None:
        if spawn.credentials is None:
            spawn.credentials = await self._issuer.machine(spawn.project, spawn.machine_id, spawn.epoch, spawn.ttl_s)

    async def _revoke(self, spawn: Spawn) -> None:
        await self._issuer.revoke(spawn.project, spawn.machine_id, spawn.epoch, "its epoch is over")
        spawn.credentials = None

    async def _create(self, spawn: Spawn) -> None:
        assert spawn.spec is not None, "the spec is made before the saga runs"
        held = spawn.credentials or MachineCredentials()
        secrets = {"nats_creds": held.creds, "gateway_token": held.gateway_token}
        spawn.vm = await self._hypervisor.create(spawn.spec.model_copy(update=secrets))

    async def _destroy(self, spawn: Spawn) -> None:
        spawn.usage = await self._hypervisor.destroy(spawn.machine_id, spawn.epoch)
        spawn.vm = None

    def begin(self, known: Known, epoch: int) -> Spawn:
        """A spawn of this epoch of which nothing is done yet, as far as this process knows."""
        limits = known.machine.request.limits if known.machine.request else Limits()
        ttl_s = limits.deadline_s + self._settings.credential_slack_s
        return Spawn(known.address.project, known.machine_id, epoch, ttl_s)

    def spec(self, known: Known, project: Project, now: datetime, tool: AgentTool | None = None) -> MachineSpec:
        """What the hypervisor is asked for, by what the log says of the machine."""
        machine, settings = known.machine, self._settings
        request, incarnation = machine.request, machine.incarnation
        assert request is not None, "a machine in provisioning was requested"
        assert incarnation is not None, "a machine in provisioning has an incarnation"
        return MachineSpec(
            project=known.address.project,
            machine_id=known.machine_id,
            epoch=incarnation.epoch,
            machine_type=request.machine_type,
            goal=request.goal,
            snapshot=incarnation.start.snapshot,
            parent_checkpoint_id=incarnation.start.checkpoint_id,
            files=request.files if _files_are_missing(machine) else (),
            env=request.env,
            limits=request.limits,
            policy=project.policy,
            agent_policy=project.agent_policy,
            model=request.model,
            tool=tool,
            gateway_url="" if request.machine_type is MachineType.SHELL else settings.agent_gateway_url,
            deadline_in_s=max(DEADLINE_MIN_S, goal_left_s(machine, now)),
            nats_url=settings.agent_nats_url or settings.nats_url,
            store=settings.store,
        )


def _files_are_missing(machine: Machine) -> bool:
    """Whether the workspace is one that the request's files were never put in: where the machine first began."""
    newest, base = machine.incarnation, machine.base
    return newest is not None and machine.base_epoch == 1 and newest.start == base
