"""The spawner, the checkpointer, real agents in real sandboxes, on one log: goals one after the other."""

import os
import signal
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from uuid import UUID

import pytest_asyncio
from nats.aio.msg import Msg

from cli.stack.nats import EmbeddedNats
from events import address as at
from events import checkpoint as e
from events import machine as m
from events.agent import AgentRegistered
from events.fresh import uuid7
from events.project import CheckpointPolicy, ProjectCreated
from events.words import CheckpointType, Hold, MachineType, Outcome, Resource
from hypervisors.local import LocalHypervisor, LocalSettings
from services.checkpointer.app import CheckpointerSettings
from services.checkpointer.app import create_app as create_checkpointer
from services.kit import topology
from services.kit.bus import Bus, BusSettings
from services.kit.credentials import NoCredentials
from services.spawner.app import SpawnerSettings
from services.spawner.app import create_app as create_spawner
from snapshots.capture import capture
from snapshots.directory import DirectoryChunkStore
from snapshots.restore import restore
from tests.harness import eventually, short_directory
from tests.spawner.world import GENESIS, SHOP, World

SMALL = m.Limits(memory_mib=128, processes=64, disk_mib=64, deadline_s=60)


@dataclass
class Hub:
    """Everything that makes a goal run, but budget, door and readers."""

    world: World
    store: DirectoryChunkStore
    directory: Path
    url: str

    @asynccontextmanager
    async def running(self) -> AsyncGenerator[LocalHypervisor]:
        bus = self.world.bus
        async with AsyncExitStack() as stack:
            host = await stack.enter_async_context(LocalHypervisor(LocalSettings(self.directory / "data")))
            spawner = SpawnerSettings(
                nats_url=self.url, store=str(self.store.path), spawner_look_s=0.05, exit_grace_s=0.5, sweep_s=0.5
            )
            await stack.enter_async_context(create_spawner(bus, spawner, host, NoCredentials()))
            checkpointer = CheckpointerSettings(store_port=0, checkpointer_look_s=0.05)
            await stack.enter_async_context(create_checkpointer(bus, checkpointer, self.store))
            yield host

    async def project(self) -> None:
        tree = self.directory / "tree"
        tree.mkdir()
        (tree / "README").write_text("hello\n")
        digest = capture({"workspace": tree}, self.store).digest
        created = ProjectCreated(genesis=digest, checkpoint_policy=CheckpointPolicy(interval_s=5))
        await self.world.happen(at.project(SHOP), created)

    async def goal(self, goal: str, *, from_checkpoint_id: UUID | None = None) -> UUID:
        machine_id = uuid7()
        await self.world.happen(
            at.machine(SHOP, machine_id),
            m.MachineRequested(
                goal=goal, machine_type=MachineType.SHELL, limits=SMALL, from_checkpoint_id=from_checkpoint_id
            ),
            m.MachineAdmitted(reservation_id=uuid7(), held={Resource.MONEY: Decimal(1)}),
        )
        return machine_id

    async def taken(self, machine_id: UUID) -> list[tuple[UUID, e.CheckpointTaken]]:
        """The checkpoints of a machine."""
        found: list[tuple[UUID, e.CheckpointTaken]] = []
        async for batch in self.world.bus.log.follow(0, ("av.*.checkpoint.*.CheckpointTaken",), stop_at_end=True):
            for recorded in batch:
                event = recorded.event
                if isinstance(event, e.CheckpointTaken) and event.machine_id == machine_id:
                    found.append((UUID(recorded.envelope.address.id), event))
        return found

    def file(self, snapshot: str, name: str) -> str:
        """A file of a snapshot's workspace."""
        target = self.directory / str(uuid7())
        restore(snapshot, target, self.store)
        return (target / "workspace" / name).read_text()


@pytest_asyncio.fixture
async def hub(nats_server: EmbeddedNats) -> AsyncGenerator[Hub]:
    with short_directory() as directory:
        directory.chmod(0o755)
        async with Bus.connect(BusSettings(nats_url=nats_server.url), name="test") as bus:
            await topology.apply(bus)
            with DirectoryChunkStore(directory / "store") as store:
                hub = Hub(World(bus), store, directory, nats_server.url)
                await hub.project()
                yield hub


async def test_a_second_goal_starts_where_the_first_one_ended(hub: Hub) -> None:
    async with hub.running():
        first = await hub.goal("cat README > copy.txt")
        ended = await hub.world.ended(first)
        assert (ended.outcome, ended.exit_code) == (Outcome.SUCCEEDED, 0), ended.reason
        assert await hub.world.trunk() == ended.checkpoint_id
        second = await hub.goal("cat copy.txt copy.txt > twice.txt")
        ended = await hub.world.ended(second)
        assert ended.outcome is Outcome.SUCCEEDED, ended.reason
        final = next(event for each, event in await hub.taken(second) if each == ended.checkpoint_id)
    assert hub.file(final.snapshot, "twice.txt") == "hello\nhello\n"
    assert final.checkpoint_type is CheckpointType.FINAL


async def test_a_branch_starts_from_the_checkpoint_it_names(hub: Hub) -> None:
    async with hub.running():
        trunk = await hub.world.ended(await hub.goal("echo one > a.txt"))
        branch = await hub.goal("test ! -e a.txt", from_checkpoint_id=GENESIS)
        ended = await hub.world.ended(branch)
    assert ended.outcome is Outcome.SUCCEEDED, ended.reason
    assert await hub.world.trunk() == trunk.checkpoint_id


async def test_a_goal_that_fails_says_so_and_still_leaves_its_checkpoint(hub: Hub) -> None:
    async with hub.running():
        machine_id = await hub.goal("echo half > a.txt; exit 7")
        ended = await hub.world.ended(machine_id)
        final = next(event for each, event in await hub.taken(machine_id) if each == ended.checkpoint_id)
    assert (ended.outcome, ended.exit_code) == (Outcome.FAILED, 7)
    assert hub.file(final.snapshot, "a.txt") == "half\n"
    assert await hub.world.trunk() == GENESIS


async def test_a_machine_that_is_stopped_is_sealed_first(hub: Hub) -> None:
    async with hub.running():
        machine_id = await hub.goal("echo half > a.txt; sleep 60")
        await hub.world.until(machine_id, m.MachineWorkStarted)
        await hub.world.ask(machine_id, m.MachineStopRequested(reason="enough"))
        ended = await hub.world.ended(machine_id)
        assert ended.outcome is Outcome.CANCELLED
        assert ended.checkpoint_id is not None


async def test_a_capture_on_request_is_taken_while_the_goal_goes_on(hub: Hub) -> None:
    checkpoint_id = uuid7()
    async with hub.running():
        machine_id = await hub.goal("echo half > a.txt; while [ ! -e /workspace/stop ]; do sleep 0.1; done")
        await hub.world.until(machine_id, m.MachineWorkStarted)
        await hub.world.happen(
            at.checkpoint(SHOP, checkpoint_id), e.CheckpointRequested(machine_id=machine_id, description="now")
        )

        async def there() -> e.CheckpointTaken | None:
            return next((event for each, event in await hub.taken(machine_id) if each == checkpoint_id), None)

        taken = await eventually(there)
        assert taken is not None
        assert (taken.checkpoint_type, taken.description) == (CheckpointType.MANUAL, "now")
        await hub.world.ask(machine_id, m.MachineStopRequested())
        await hub.world.ended(machine_id)


async def test_a_machine_whose_agent_is_killed_goes_on_in_a_second_incarnation(hub: Hub) -> None:
    registered: list[AgentRegistered] = []

    async def hear(message: Msg) -> None:
        registered.append(AgentRegistered.model_validate_json(message.data))

    await hub.world.bus.nc.subscribe("from.*.*.*.spawner.AgentRegistered", cb=hear)
    async with hub.running() as host:
        machine_id = await hub.goal("sleep 60")
        await hub.world.until(machine_id, m.MachineWorkStarted)
        os.kill(registered[0].pid, signal.SIGKILL)
        await hub.world.until(machine_id, m.MachineWorkStarted, 2)
        assert [vm.epoch for vm in await host.list() if vm.running] == [2]
        await hub.world.ask(machine_id, m.MachineStopRequested())
        ended = await hub.world.ended(machine_id)
        assert (ended.outcome, ended.epoch) == (Outcome.CANCELLED, 2)
        assert await host.list() == []


async def test_after_the_hub_was_away_its_machines_go_on(hub: Hub) -> None:
    async with hub.running():
        machine_id = await hub.goal("test -e mark || { touch mark; sleep 6; }; sleep 0.2; echo done > a.txt")
        await hub.world.until(machine_id, m.MachineWorkStarted)
    async with hub.running():
        ended = await hub.world.ended(machine_id)
        assert ended.outcome is Outcome.SUCCEEDED, ended.reason
        assert ended.epoch == 2


async def test_a_restore_goes_on_from_the_checkpoint_with_a_safety_copy_behind_it(hub: Hub) -> None:
    async with hub.running():
        machine_id = await hub.goal("test -e a.txt && echo seen; touch a.txt; sleep 60")
        await hub.world.until(machine_id, m.MachineWorkStarted)
        await hub.world.ask(machine_id, m.MachineRestoreRequested(checkpoint_id=GENESIS))
        await hub.world.until(machine_id, m.MachineWorkStarted, 2)
        kinds = [event.checkpoint_type for _, event in await hub.taken(machine_id)]
        assert CheckpointType.SAFETY in kinds
        await hub.world.ask(machine_id, m.MachineStopRequested())
        await hub.world.ended(machine_id)


async def test_a_machine_that_is_held_parks_and_goes_on_where_it_was(hub: Hub) -> None:
    async with hub.running() as host:
        machine_id = await hub.goal("test -e mark && { cat mark > a.txt; exit 0; }; echo kept > mark; sleep 60")
        await hub.world.until(machine_id, m.MachineWorkStarted)
        await hub.world.ask(machine_id, m.MachineHeld(epoch=1, hold=Hold.BUDGET, reason="no money left"))
        parked = await hub.world.until(machine_id, m.MachineParked)
        assert isinstance(parked, m.MachineParked)
        assert await host.list() == []
        kinds = {each: event.checkpoint_type for each, event in await hub.taken(machine_id)}
        assert parked.checkpoint_id
        assert kinds[parked.checkpoint_id] is CheckpointType.PARKING
        await hub.world.ask(machine_id, m.MachineAdmitted(reservation_id=uuid7(), held={Resource.MONEY: Decimal(1)}))
        await hub.world.ask(machine_id, m.MachineResumed(hold=Hold.BUDGET))
        ended = await hub.world.ended(machine_id)
        assert (ended.outcome, ended.epoch) == (Outcome.SUCCEEDED, 2), ended.reason
        final = next(event for each, event in await hub.taken(machine_id) if each == ended.checkpoint_id)
        assert await hub.world.trunk() == ended.checkpoint_id
    assert hub.file(final.snapshot, "a.txt") == "kept\n"
