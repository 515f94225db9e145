"""What every hypervisor does, whatever it runs machines on: each driver, and the fake of the tests, passes these."""

from collections.abc import Callable
from uuid import UUID

from events.agent import MachineSpec
from events.fresh import uuid7
from hypervisors.port import Hypervisor, Vm
from tests.harness import eventually


class HypervisorContract:
    """Subclass it and give the fixtures `hypervisor`, that has passed its self-test, and `spec`, that makes specs by goal."""

    async def test_a_fit_host_says_so_and_what_it_enforces(self, hypervisor: Hypervisor) -> None:
        tested = await hypervisor.self_test()
        assert tested.ok, tested.problems
        assert tested.node == hypervisor.node
        assert tested.enforcement

    async def test_asked_twice_it_makes_one_machine(
        self, hypervisor: Hypervisor, spec: Callable[[str], MachineSpec]
    ) -> None:
        wanted = spec("sleep 60")
        first = await hypervisor.create(wanted)
        second = await hypervisor.create(wanted)
        assert (first.vm_id, first.machine_id, first.epoch) == (second.vm_id, wanted.machine_id, wanted.epoch)
        assert [vm.vm_id for vm in await of(hypervisor, wanted.machine_id)] == [first.vm_id]
        await hypervisor.destroy(wanted.machine_id, wanted.epoch)

    async def test_incarnations_of_a_machine_are_told_apart(
        self, hypervisor: Hypervisor, spec: Callable[[str], MachineSpec]
    ) -> None:
        first = spec("sleep 60")
        second = first.model_copy(update={"epoch": 2})
        await hypervisor.create(first)
        await hypervisor.create(second)
        assert sorted(vm.epoch for vm in await of(hypervisor, first.machine_id)) == [1, 2]
        await hypervisor.destroy(first.machine_id, 1)
        assert [vm.epoch for vm in await of(hypervisor, first.machine_id)] == [2]
        await hypervisor.destroy(first.machine_id, 2)

    async def test_the_list_says_whose_machine_it_is(
        self, hypervisor: Hypervisor, spec: Callable[[str], MachineSpec]
    ) -> None:
        wanted = spec("sleep 60")
        await hypervisor.create(wanted)
        [vm] = await of(hypervisor, wanted.machine_id)
        assert (vm.project, vm.epoch, vm.running, vm.node) == (wanted.project, 1, True, hypervisor.node)
        await hypervisor.destroy(wanted.machine_id, 1)

    async def test_destroying_leaves_nothing_and_says_the_same_again(
        self, hypervisor: Hypervisor, spec: Callable[[str], MachineSpec]
    ) -> None:
        wanted = spec("sleep 60")
        await hypervisor.create(wanted)
        used = await hypervisor.destroy(wanted.machine_id, 1)
        assert await hypervisor.destroy(wanted.machine_id, 1) == used
        assert used.started_at is not None
        assert used.ended_at is not None
        assert await of(hypervisor, wanted.machine_id) == []

    async def test_destroying_what_never_was_is_no_error(self, hypervisor: Hypervisor) -> None:
        used = await hypervisor.destroy(uuid7(), 1)
        assert used.started_at is None

    async def test_destroying_one_machine_leaves_the_others(
        self, hypervisor: Hypervisor, spec: Callable[[str], MachineSpec]
    ) -> None:
        one, other = spec("sleep 60"), spec("sleep 60")
        await hypervisor.create(one)
        await hypervisor.create(other)
        await hypervisor.destroy(one.machine_id, 1)

        async def other_runs() -> bool:
            return [vm.running for vm in await of(hypervisor, other.machine_id)] == [True]

        await eventually(other_runs)
        await hypervisor.destroy(other.machine_id, 1)


async def of(hypervisor: Hypervisor, machine_id: UUID) -> list[Vm]:
    return [vm for vm in await hypervisor.list() if vm.machine_id == machine_id]
