"""A log on a real server with a project in it, and the hands of everybody who is not the spawner."""

from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from decimal import Decimal
from uuid import UUID

from events import address as at
from events import machine as m
from events.agent import AgentFinished, AgentRegistered, WorkspaceRestored
from events.base import Event, Value
from events.checkpoint import CheckpointFailed, CheckpointTaken
from events.envelope import Cause
from events.fresh import uuid7
from events.ids import derived
from events.project import ProjectAdvanced, ProjectCreated
from events.words import CheckpointType, CreationContext, MachineType, Resource
from services.kit import topology
from services.kit.bus import Bus, BusSettings
from services.kit.log import Write
from services.kit.repository import decide_and_append
from services.spawner.app import Spawner, SpawnerSettings, create_app
from tests.harness import eventually
from tests.spawner.fakes import FakeHypervisor, FakeIssuer

SHOP = "webshop"
GENESIS = derived("genesis", SHOP)
EMPTY = "0" * 64
TEST = Cause("test")
QUICK = SpawnerSettings(
    spawner_look_s=0.02,
    sweep_s=0.1,
    exit_grace_s=0.1,
    orphan_grace_s=0.2,
    spawner_retry_min_s=0.01,
    spawner_retry_max_s=0.05,
    stop_repeat_s=0.1,
    timer_after_s=0.2,
    spawner_command_timeout_s=0.5,
    store="/nowhere",
)


class World:
    """What a test says and sees."""

    def __init__(self, bus: Bus) -> None:
        self.bus = bus
        self.host = FakeHypervisor()
        self.issuer = FakeIssuer()
        self.settings = QUICK

    @asynccontextmanager
    async def spawner(self) -> AsyncGenerator[Spawner]:
        async with create_app(self.bus, self.settings, self.host, self.issuer) as spawner:
            yield spawner

    async def happen(self, address: at.Address, *events: Event) -> None:
        async def decide() -> list[Write]:
            return [Write(address, (await self.bus.log.load(address)).seq, events)]

        await decide_and_append(self.bus.log, decide, cause=TEST)

    async def project(self, slug: str = SHOP) -> None:
        """A project whose trunk stands on its genesis."""
        await self.happen(at.project(slug), ProjectCreated())
        genesis = derived("genesis", slug)
        await self.taken(genesis, slug=slug, kind=CheckpointType.GENESIS)
        await self.happen(at.project(slug), ProjectAdvanced(checkpoint_id=genesis))

    async def taken(
        self,
        checkpoint_id: UUID,
        *,
        machine_id: UUID | None = None,
        epoch: int | None = None,
        parent_id: UUID | None = None,
        slug: str = SHOP,
        snapshot: str = EMPTY,
        kind: CheckpointType = CheckpointType.AUTOMATIC,
    ) -> None:
        taken = CheckpointTaken(
            checkpoint_type=kind,
            creation_context=CreationContext.TIMER,
            snapshot=snapshot,
            parent_id=parent_id,
            machine_id=machine_id,
            epoch=epoch,
            file_count=0,
            size_bytes=0,
            stored_bytes=0,
        )
        await self.happen(at.checkpoint(slug, checkpoint_id), taken)

    async def failed(self, checkpoint_id: UUID, reason: str = "disk full") -> None:
        await self.happen(at.checkpoint(SHOP, checkpoint_id), CheckpointFailed(reason=reason))

    async def machine(
        self,
        machine_id: UUID | None = None,
        *,
        slug: str = SHOP,
        machine_type: MachineType = MachineType.SHELL,
        limits: m.Limits | None = None,
        from_checkpoint_id: UUID | None = None,
        files: tuple[m.InjectedFile, ...] = (),
    ) -> UUID:
        """An admitted machine."""
        machine_id = machine_id or uuid7()
        requested = m.MachineRequested(
            goal="make test",
            machine_type=machine_type,
            limits=limits or m.Limits(),
            from_checkpoint_id=from_checkpoint_id,
            files=files,
        )
        admitted = m.MachineAdmitted(reservation_id=uuid7(), held={Resource.MONEY: Decimal(1)})
        await self.happen(at.machine(slug, machine_id), requested, admitted)
        return machine_id

    async def ask(self, machine_id: UUID, event: m.MachineEvent) -> None:
        await self.happen(at.machine(SHOP, machine_id), event)

    async def report(self, machine_id: UUID, epoch: int, *reports: Value, slug: str = SHOP) -> None:
        for report in reports:
            subject = at.report(slug, machine_id, epoch, "spawner", type(report).__name__)
            headers = {"Nats-Msg-Id": str(uuid7())}
            await self.bus.js.publish(subject, report.model_dump_json().encode(), headers=headers)

    async def works(self, machine_id: UUID, epoch: int = 1) -> None:
        """Wait for the incarnation and let its agent register and restore."""
        await self.until(machine_id, m.MachineBooted, epoch)
        await self.report(machine_id, epoch, AgentRegistered(agent_version="1"), RESTORED)
        await self.until(machine_id, m.MachineWorkStarted, epoch)

    async def finishes(
        self, machine_id: UUID, epoch: int = 1, *, outcome: str = "succeeded", checkpoint_id: UUID | None = None
    ) -> None:
        done = AgentFinished.model_validate({"outcome": outcome, "exit_code": 0, "checkpoint_id": checkpoint_id})
        await self.report(machine_id, epoch, done)

    async def story(self, machine_id: UUID, slug: str = SHOP) -> Sequence[Event]:
        return [recorded.event for recorded in (await self.bus.log.load(at.machine(slug, machine_id))).events]

    async def until(self, machine_id: UUID, kind: type[m.MachineEvent], epoch: int | None = None) -> m.MachineEvent:
        """Wait until the log has such an event of the machine (of this epoch)."""

        async def there() -> m.MachineEvent | None:
            for event in await self.story(machine_id):
                if isinstance(event, kind) and epoch in {None, getattr(event, "epoch", None)}:
                    return event
            return None

        found = await eventually(there)
        assert found is not None
        return found

    async def ended(self, machine_id: UUID) -> m.MachineEnded:
        """Wait for the machine's end, which is the only one."""
        ended = await self.until(machine_id, m.MachineEnded)
        assert isinstance(ended, m.MachineEnded)
        assert sum(isinstance(event, m.MachineEnded) for event in await self.story(machine_id)) == 1
        return ended

    async def trunk(self, slug: str = SHOP) -> UUID:
        history = await self.bus.log.load(at.project(slug))
        return [r.event.checkpoint_id for r in history.events if isinstance(r.event, ProjectAdvanced)][-1]


RESTORED = WorkspaceRestored(restore_ms=3, file_count=0)


@asynccontextmanager
async def a_world(url: str) -> AsyncGenerator[World]:
    async with Bus.connect(BusSettings(nats_url=url), name="test") as bus:
        await topology.apply(bus)
        world = World(bus)
        await world.project()
        yield world
