"""A parked machine is let in again only where there is room for all that its first admission asked."""

from domain.budget import Readmit, Settle
from domain.tariff import worst_case
from events import address
from events.machine import MachineAdmitted, MachineEnded, MachineParked, MachineResumed
from events.words import Hold, Outcome, Resource
from tests.budget.world import FREE, SHOP, World, machine_id, request, wanted

ONE, OTHER = machine_id(1), machine_id(2)


def of_cpu(hours: str) -> World:
    world = World()
    world.set_budget(SHOP, wanted("10"), wanted(hours, Resource.CPU))
    return world


def test_a_capped_core_is_waited_for_as_money_is() -> None:
    asked = request("1")
    hours = worst_case(asked.limits, FREE).cpu_hours
    world = of_cpu(str(hours))
    assert isinstance(world.ask(ONE, asked), MachineAdmitted)
    world.happen(address.machine(SHOP, ONE), MachineParked(epoch=1, hold=Hold.BUDGET))
    world.do(Settle(world.now), ONE)
    assert isinstance(world.ask(OTHER, asked), MachineAdmitted)
    again = Readmit(world.now, world.tariff, world.machines_max)
    assert not world.decide(again, ONE).machine
    world.happen(address.machine(SHOP, OTHER), MachineEnded(epoch=1, outcome=Outcome.SUCCEEDED))
    world.settle(OTHER)
    said = world.decide(again, ONE).machine
    assert [type(event) for event in said] == [MachineAdmitted, MachineResumed]
    assert isinstance(said[0], MachineAdmitted)
    assert said[0].held[Resource.CPU] == hours
