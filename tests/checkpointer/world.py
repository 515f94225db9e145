"""A log and a chunk store, both real, and the hands of everybody who is not the checkpointer."""

from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from decimal import Decimal
from pathlib import Path
from uuid import UUID

from events import address as at
from events import machine as m
from events.agent import CaptureFailed, WorkspaceCaptured
from events.base import Event, Value
from events.checkpoint import CheckpointEvent
from events.envelope import Cause
from events.fresh import uuid7
from events.ids import derived
from events.project import ProjectAdvanced, ProjectCreated
from events.records import Rejected
from events.words import CheckpointType, CreationContext, MachineType, Outcome, Resource
from services.checkpointer.app import Checkpointer, CheckpointerSettings, create_app
from services.kit import topology
from services.kit.bus import Bus, BusSettings
from services.kit.log import Write
from services.kit.repository import decide_and_append
from snapshots.capture import Snapshot, capture
from snapshots.directory import DirectoryChunkStore
from tests.harness import eventually

SHOP = "webshop"
GENESIS = derived("genesis", SHOP)
TEST = Cause("test")
QUICK = CheckpointerSettings(
    checkpointer_look_s=0.05,
    checkpointer_retry_s=0.1,
    checkpointer_command_timeout_s=0.5,
    capture_deadline_s=1.0,
    store_port=0,
    sweep_grace_s=0.0,
)


class World:
    """What a test says and sees."""

    def __init__(self, bus: Bus, directory: Path) -> None:
        self.bus = bus
        self.directory = directory
        self.store = DirectoryChunkStore(directory / "store")
        self.settings = QUICK

    @asynccontextmanager
    async def checkpointer(self) -> AsyncGenerator[Checkpointer]:
        async with create_app(self.bus, self.settings, self.store) as checkpointer:
            yield checkpointer

    def snapshot(self, **files: str) -> Snapshot:
        """A snapshot of a workspace with these files."""
        workspace = self.directory / str(uuid7()) / "workspace"
        workspace.mkdir(parents=True)
        for name, text in files.items():
            (workspace / name).write_text(text)
        return capture({"workspace": workspace}, self.store)

    async def happen(self, address: at.Address, *events: Event) -> None:
        async def decide() -> list[Write]:
            return [Write(address, (await self.bus.log.load(address)).seq, events)]

        await decide_and_append(self.bus.log, decide, cause=TEST)

    async def project(self, slug: str = SHOP, *, genesis: str | None = None) -> None:
        await self.happen(at.project(slug), ProjectCreated(genesis=genesis))

    async def working(self, slug: str = SHOP, machine_id: UUID | None = None) -> UUID:
        """A machine at work in its first incarnation."""
        machine_id = machine_id or uuid7()
        await self.happen(
            at.machine(slug, machine_id),
            m.MachineRequested(goal="make test", machine_type=MachineType.SHELL),
            m.MachineAdmitted(reservation_id=uuid7(), held={Resource.MONEY: Decimal(1)}),
            m.MachineProvisioningStarted(
                epoch=1,
                hypervisor="fake",
                node="here",
                from_checkpoint_id=derived("genesis", slug),
                snapshot="0" * 64,
                on_trunk=True,
            ),
            m.MachineBooted(epoch=1, vm_id="vm"),
            m.MachineBecameReady(epoch=1),
            m.MachineWorkStarted(epoch=1),
        )
        return machine_id

    async def ended(self, machine_id: UUID) -> None:
        await self.happen(at.machine(SHOP, machine_id), m.MachineEnded(epoch=1, outcome=Outcome.SUCCEEDED))

    async def report(self, machine_id: UUID, epoch: int, report: Value, slug: str = SHOP) -> None:
        subject = at.report(slug, machine_id, epoch, "checkpointer", type(report).__name__)
        headers = {"Nats-Msg-Id": str(uuid7())}
        await self.bus.js.publish(subject, report.model_dump_json().encode(), headers=headers)

    async def story(self, checkpoint_id: UUID, slug: str = SHOP) -> Sequence[CheckpointEvent]:
        found = (await self.bus.log.load(at.checkpoint(slug, checkpoint_id))).events
        return [recorded.event for recorded in found if isinstance(recorded.event, CheckpointEvent)]

    async def until(self, checkpoint_id: UUID, kind: type[CheckpointEvent], slug: str = SHOP) -> CheckpointEvent:
        async def there() -> CheckpointEvent | None:
            return next((each for each in await self.story(checkpoint_id, slug) if isinstance(each, kind)), None)

        found = await eventually(there)
        assert found is not None
        return found

    async def trunk(self, slug: str = SHOP) -> list[UUID]:
        history = await self.bus.log.load(at.project(slug))
        return [r.event.checkpoint_id for r in history.events if isinstance(r.event, ProjectAdvanced)]

    async def refusals(self) -> list[str]:
        """What was said of all reports that were refused; none of them may be a dead letter."""
        assert (await self.bus.js.stream_info("DEAD")).state.messages == 0
        info = await self.bus.js.stream_info("REJECTED")
        found = [await self.bus.js.get_msg("REJECTED", seq + 1) for seq in range(info.state.last_seq)]
        return [Rejected.model_validate_json(record.data or b"").problem.message for record in found]


def captured(
    snapshot: Snapshot,
    *,
    parent_id: UUID = GENESIS,
    checkpoint_id: UUID | None = None,
    kind: CheckpointType = CheckpointType.AUTOMATIC,
) -> WorkspaceCaptured:
    return WorkspaceCaptured(
        checkpoint_id=checkpoint_id or uuid7(),
        checkpoint_type=kind,
        creation_context=CreationContext.TIMER,
        parent_id=parent_id,
        snapshot=snapshot.digest,
        file_count=snapshot.file_count,
        size_bytes=snapshot.size_bytes,
        stored_bytes=snapshot.stored_bytes,
        captured_bytes=snapshot.captured_bytes,
        capture_ms=snapshot.capture_ms,
        added=snapshot.added,
    )


def failed(checkpoint_id: UUID, reason: str = "disk full") -> CaptureFailed:
    return CaptureFailed(checkpoint_id=checkpoint_id, reason=reason)


@asynccontextmanager
async def a_world(url: str, directory: Path) -> AsyncGenerator[World]:
    async with Bus.connect(BusSettings(nats_url=url), name="test") as bus:
        await topology.apply(bus)
        world = World(bus, directory)
        try:
            yield world
        finally:
            world.store.close()
