"""The fake hypervisor of these tests and the local one keep the same contract."""

from collections.abc import AsyncGenerator, Callable

import pytest
import pytest_asyncio

from cli.stack.nats import EmbeddedNats
from events.agent import MachineSpec
from events.fresh import uuid7
from events.words import MachineType
from hypervisors.local import LocalHypervisor, LocalSettings
from hypervisors.port import Hypervisor
from tests.agent.machines import Base
from tests.harness import short_directory
from tests.hypervisors.contract import HypervisorContract
from tests.spawner.fakes import FakeHypervisor


class TestFakeHypervisor(HypervisorContract):
    """A table of machines."""

    @pytest.fixture
    def hypervisor(self) -> Hypervisor:
        return FakeHypervisor()

    @pytest.fixture
    def spec(self) -> Callable[[str], MachineSpec]:
        def make(goal: str) -> MachineSpec:
            return MachineSpec(
                project="webshop",
                machine_id=uuid7(),
                epoch=1,
                machine_type=MachineType.SHELL,
                goal=goal,
                snapshot="0" * 64,
                parent_checkpoint_id=uuid7(),
                deadline_in_s=60,
                nats_url="nats://127.0.0.1",
                store="/nowhere",
            )

        return make


class TestLocalHypervisor(HypervisorContract):
    """Sandboxes of this host."""

    @pytest_asyncio.fixture
    async def base(self) -> AsyncGenerator[Base]:
        with short_directory() as directory:
            directory.chmod(0o755)
            yield Base(directory / "base")

    @pytest_asyncio.fixture
    async def hypervisor(self) -> AsyncGenerator[Hypervisor]:
        with short_directory() as directory:
            directory.chmod(0o755)
            async with LocalHypervisor(LocalSettings(directory)) as hypervisor:
                tested = await hypervisor.self_test()
                assert tested.ok, tested.problems
                yield hypervisor

    @pytest.fixture
    def spec(self, base: Base, nats_server: EmbeddedNats) -> Callable[[str], MachineSpec]:
        return lambda goal: base.spec(goal, nats_server.url)
