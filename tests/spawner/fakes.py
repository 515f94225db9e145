"""A hypervisor without machines, and credentials without keys; both can lose an answer after having done the work."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from uuid import UUID

from events.agent import MachineSpec
from hypervisors.port import Exit, SelfTest, Usage, Vm
from services.kit.credentials import MachineCredentials


@dataclass
class Trouble:
    """Errors to be raised by the next calls, before the work is done or after it (the answer is lost)."""

    before: list[Exception] = field(default_factory=list[Exception])
    after: list[Exception] = field(default_factory=list[Exception])
    always: Exception | None = None

    def strike_before(self) -> None:
        if self.always is not None:
            raise self.always
        if self.before:
            raise self.before.pop(0)

    def strike_after(self) -> None:
        if self.after:
            raise self.after.pop(0)


class FakeHypervisor:
    """Machines that are entries in a table."""

    name = "fake"
    node = "here"

    def __init__(self) -> None:
        self.vms: dict[tuple[UUID, int], Vm] = {}
        self.specs: dict[tuple[UUID, int], MachineSpec] = {}
        self.boots: Counter[tuple[UUID, int]] = Counter()
        self.most_at_once: Counter[UUID] = Counter()
        self.create_trouble = Trouble()
        self.destroy_trouble = Trouble()
        self.list_trouble = Trouble()
        self.tested = SelfTest(ok=True, node=self.node, enforcement="nothing, it is a fake")
        self.gate = asyncio.Event()
        self.gate.set()
        self.creating = 0
        self.creating_most = 0
        self._exits: asyncio.Queue[Exit] = asyncio.Queue()
        self._used: dict[tuple[UUID, int], Usage] = {}

    async def self_test(self) -> SelfTest:
        return self.tested

    async def create(self, spec: MachineSpec) -> Vm:
        self.creating += 1
        self.creating_most = max(self.creating_most, self.creating)
        try:
            await self.gate.wait()
            self.create_trouble.strike_before()
            vm = self._made(spec)
            self.create_trouble.strike_after()
            return vm
        finally:
            self.creating -= 1

    def _made(self, spec: MachineSpec) -> Vm:
        key = (spec.machine_id, spec.epoch)
        if key not in self.vms:
            self.boots[key] += 1
            self.specs[key] = spec
            self.vms[key] = Vm(
                machine_id=spec.machine_id,
                epoch=spec.epoch,
                project=spec.project,
                vm_id=f"fake-{spec.epoch}",
                node=self.node,
                running=True,
                enforcement="nothing",
                created_at=datetime.now(UTC),
            )
            living = sum(vm.machine_id == spec.machine_id and vm.running for vm in self.vms.values())
            self.most_at_once[spec.machine_id] = max(living, self.most_at_once[spec.machine_id])
        return self.vms[key]

    async def list(self) -> list[Vm]:
        self.list_trouble.strike_before()
        return list(self.vms.values())

    async def destroy(self, machine_id: UUID, epoch: int) -> Usage:
        self.destroy_trouble.strike_before()
        vm = self.vms.pop((machine_id, epoch), None)
        if vm is not None:
            self._used[machine_id, epoch] = Usage(
                cpu_s=1.5, memory_peak_bytes=4_096, started_at=vm.created_at, ended_at=datetime.now(UTC)
            )
        self.destroy_trouble.strike_after()
        return self._used.get((machine_id, epoch), Usage())

    async def usage(self, machine_id: UUID, epoch: int) -> Usage:
        return self._used.get((machine_id, epoch), Usage())

    async def exits(self) -> AsyncIterator[Exit]:
        while True:
            yield await self._exits.get()

    def die(self, machine_id: UUID, epoch: int, exit_code: int = -9, *, silently: bool = False) -> None:
        """The agent of an incarnation is gone."""
        key = (machine_id, epoch)
        self.vms[key] = replace(self.vms[key], running=False)
        if not silently:
            self._exits.put_nowait(Exit(machine_id, epoch, exit_code, "the test ended it"))

    def vanish(self) -> None:
        """The host lost everything, as when the hub and all agents are killed."""
        self.vms.clear()


class FakeIssuer:
    """Remembers for whom credentials are good."""

    def __init__(self) -> None:
        self.good: set[tuple[str, UUID, int]] = set()
        self.minted: Counter[tuple[str, UUID, int]] = Counter()
        self.machine_trouble = Trouble()
        self.revoke_trouble = Trouble()

    async def machine(self, project: str, machine_id: UUID, epoch: int, ttl_s: int) -> MachineCredentials:
        self.machine_trouble.strike_before()
        self.good.add((project, machine_id, epoch))
        self.minted[project, machine_id, epoch] += 1
        self.machine_trouble.strike_after()
        return MachineCredentials(creds=f"creds of {machine_id} {epoch} for {ttl_s} s")

    async def revoke(self, project: str, machine_id: UUID, epoch: int, reason: str = "") -> None:
        self.revoke_trouble.strike_before()
        self.good.discard((project, machine_id, epoch))
        self.revoke_trouble.strike_after()
