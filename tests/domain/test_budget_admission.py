"""Who may run: the decider of admission."""

from decimal import Decimal

import pytest

from domain.budget import Cancel, Expire
from domain.budget.decision import reservation_of
from domain.periods import TOTAL_START
from domain.tariff import Tariff
from events import address
from events.budget import BudgetAllocated, BudgetReserved, Line, ReservationRefused
from events.ids import HUB
from events.machine import (
    Limits,
    MachineAdmitted,
    MachineDenied,
    MachineEnded,
    MachineQueued,
    MachineStopRequested,
    UsageRecorded,
)
from events.words import BudgetPeriod, Hold, Outcome, Resource, Unit
from tests.budget.world import NOW, SHOP, World, machine_id, request, wanted

ANN, BOB, CEM, DEE = (machine_id(number) for number in range(4))
OTHER = "bakery"


@pytest.fixture
def world() -> World:
    return World()


def ended(world: World, who: object, *, cost: str = "0", slug: str = SHOP) -> None:
    where = address.machine(slug, who)
    if Decimal(cost):
        world.happen(where, used(cost))
    world.happen(where, MachineEnded(epoch=1, outcome=Outcome.SUCCEEDED))


def used(cost: str) -> UsageRecorded:
    return UsageRecorded(
        epoch=1,
        resource_type=Resource.CPU,
        resource_subtype="vm_runtime",
        amount=Decimal(1),
        unit=Unit.CPU_HOURS,
        cost_cad=Decimal(cost),
        period_start=NOW,
        period_end=NOW,
    )


def test_what_a_machine_may_use_is_set_aside_on_hub_project_and_machine_in_one_decision(world: World) -> None:
    world.happen(address.machine(SHOP, ANN), request("1.50", calls="20", deadline_s=90))
    decision = world.decide(world.admit_command(ANN), ANN)
    amounts = {Resource.MONEY: Decimal("1.50"), Resource.TIME: Decimal("1.5"), Resource.API_CALLS: Decimal(20)}
    reserved = BudgetReserved(
        reservation_id=reservation_of(ANN),
        machine_id=ANN,
        lines=tuple(
            Line.model_validate({"resource": r, "amount": a, "period": BudgetPeriod.TOTAL, "period_start": TOTAL_START})
            for r, a in amounts.items()
        ),
    )
    assert decision.machine == (MachineAdmitted(reservation_id=reservation_of(ANN), held=amounts),)
    assert decision.accounts[HUB] == decision.accounts[SHOP] == (reserved,)
    *caps, last = decision.accounts[str(ANN)]
    assert last == reserved
    assert [(cap.resource, cap.amount) for cap in caps if isinstance(cap, BudgetAllocated)] == [
        (Resource.MONEY, Decimal("1.50")),
        (Resource.API_CALLS, Decimal(20)),
    ]


def test_without_a_budget_of_its_own_what_its_limits_cost_at_the_tariff_is_set_aside(world: World) -> None:
    world.tariff = Tariff(vcpu_hour_cad=Decimal("0.10"), gib_hour_cad=Decimal("0.02"))
    said = world.ask(ANN, request(None, limits=Limits(cpu_milli=2_000, memory_mib=512, deadline_s=1_800)))
    assert isinstance(said, MachineAdmitted)
    assert said.held[Resource.MONEY] == Decimal("0.105")


def test_time_that_does_not_come_out_even_is_held_rounded_up(world: World) -> None:
    said = world.ask(ANN, request(deadline_s=100))
    assert isinstance(said, MachineAdmitted)
    assert said.held[Resource.TIME] == Decimal("1.666666667")


def test_a_second_machine_waits_while_the_first_has_reserved_what_it_asks(world: World) -> None:
    world.set_budget(SHOP, wanted("5"))
    world.ask(ANN, request("4"))
    assert world.ask(BOB, request("2")) == MachineQueued(
        hold=Hold.BUDGET,
        node=SHOP,
        resource=Resource.MONEY,
        asked=Decimal(2),
        available=Decimal(1),
        wants={Resource.MONEY: Decimal(2), Resource.TIME: Decimal(1)},
    )


def test_a_machine_is_denied_what_use_has_left_too_little_for(world: World) -> None:
    world.set_budget(SHOP, wanted("5"))
    world.ask(ANN, request("4"))
    ended(world, ANN, cost="4")
    world.settle(ANN)
    world.happen(address.machine(SHOP, BOB), request("2"))
    decision = world.decide(world.admit_command(BOB), BOB)
    assert decision.machine == (
        MachineDenied(
            node=SHOP,
            resource=Resource.MONEY,
            unit=Unit.CAD,
            asked=Decimal(2),
            available=Decimal(1),
            allocated=Decimal(5),
            used=Decimal(4),
            reason="asked 2 CAD, webshop has 1 CAD not yet used of 5 CAD (total)",
        ),
    )
    assert decision.accounts == {
        SHOP: (
            ReservationRefused(
                reservation_id=reservation_of(BOB),
                machine_id=BOB,
                resource=Resource.MONEY,
                unit=Unit.CAD,
                asked=Decimal(2),
                available=Decimal(1),
            ),
        )
    }


def test_a_request_for_exactly_what_is_left_is_admitted(world: World) -> None:
    world.set_budget(SHOP, wanted("5"))
    assert isinstance(world.ask(ANN, request("5")), MachineAdmitted)


def test_a_cap_of_zero_is_a_cap(world: World) -> None:
    world.set_budget(SHOP, wanted("0"))
    assert isinstance(world.ask(ANN, request("0.000000001")), MachineDenied)
    assert isinstance(world.ask(BOB, request("0")), MachineAdmitted)


@pytest.mark.parametrize(("resource", "asked"), [(Resource.TIME, "0.9"), (Resource.API_CALLS, "4")])
def test_every_resource_has_caps_of_its_own(world: World, resource: Resource, asked: str) -> None:
    world.set_budget(HUB, wanted(asked, resource))
    said = world.ask(ANN, request(calls="5", deadline_s=60))
    assert isinstance(said, MachineDenied)
    assert (said.node, said.resource) == (HUB, resource)


@pytest.mark.parametrize(
    ("resource", "asked"), [(Resource.CPU, "0.99"), (Resource.MEMORY, "1.99"), (Resource.STORAGE, "3.99")]
)
def test_what_a_machine_takes_of_its_host_is_held_where_it_is_capped(
    world: World, resource: Resource, asked: str
) -> None:
    limits = Limits(cpu_milli=1_000, memory_mib=2_048, disk_mib=4_096, deadline_s=3_600)
    world.set_budget(SHOP, wanted(asked, resource))
    said = world.ask(ANN, request(limits=limits))
    assert isinstance(said, MachineDenied)
    assert (said.node, said.resource) == (SHOP, resource)
    enough = Decimal(asked) + Decimal("0.01")
    world.set_budget(SHOP, wanted(str(enough), resource))
    said = world.ask(BOB, request(limits=limits))
    assert isinstance(said, MachineAdmitted)
    assert said.held[resource] == enough
    assert isinstance(world.ask(CEM, request(limits=limits)), MachineQueued)


def test_the_tightest_period_decides(world: World) -> None:
    world.set_budget(SHOP, wanted("100"), wanted("1", period=BudgetPeriod.DAILY))
    said = world.ask(ANN, request("2"))
    assert isinstance(said, MachineDenied)
    assert said.allocated == 1


def test_the_hubs_capacity_counts_the_open_reservations_of_all_projects(world: World) -> None:
    world.machines_max = 1
    world.ask(ANN, request())
    said = world.ask(BOB, request(), OTHER)
    assert isinstance(said, MachineQueued)
    assert (said.hold, said.node, said.resource) == (Hold.CAPACITY, HUB, None)
    ended(world, ANN)
    world.settle(ANN)
    assert isinstance(world.admit(BOB, OTHER), MachineAdmitted)


def test_a_small_request_does_not_overtake_a_large_one_of_its_project(world: World) -> None:
    world.set_budget(SHOP, wanted("5"))
    world.ask(ANN, request("4"))
    world.ask(BOB, request("5"))
    small = world.ask(CEM, request("1"))
    assert isinstance(small, MachineQueued)
    assert small.node == SHOP
    ended(world, ANN)
    world.settle(ANN)
    assert world.admit(CEM) is None
    assert isinstance(world.admit(BOB), MachineAdmitted)


def test_who_waits_for_their_project_holds_up_nobody_elses(world: World) -> None:
    world.set_budget(SHOP, wanted("1"))
    world.ask(ANN, request("1"))
    world.ask(BOB, request("1"))
    assert isinstance(world.ask(CEM, request("1"), OTHER), MachineAdmitted)


def test_who_waits_for_the_hub_is_before_everybody_who_has_more_of_it(world: World) -> None:
    world.set_budget(HUB, wanted("10"))
    world.ask(ANN, request("6"))
    world.ask(BOB, request("2"), OTHER)
    world.ask(CEM, request("3"), OTHER)
    said = world.ask(DEE, request("1"))
    assert isinstance(said, MachineQueued)
    assert said.node == HUB


def test_who_has_less_of_the_hub_is_before_those_who_wait_there_already(world: World) -> None:
    world.set_budget(HUB, wanted("5"))
    world.ask(ANN, request("4"))
    assert isinstance(world.ask(BOB, request("3")), MachineQueued)
    assert isinstance(world.ask(CEM, request("1"), OTHER), MachineAdmitted)


def test_who_stands_behind_their_own_project_at_the_hub_does_not_hold_up_others_there(world: World) -> None:
    world.set_budget(HUB, wanted("5"))
    world.set_budget(SHOP, wanted("3"))
    world.ask(ANN, request("4"), OTHER)
    world.ask(BOB, request("3"))
    behind = world.ask(CEM, request("3"))
    assert isinstance(behind, MachineQueued)
    assert behind.node == HUB
    ended(world, ANN, slug=OTHER)
    world.settle(ANN, OTHER)
    assert isinstance(world.admit(BOB), MachineAdmitted)
    assert world.admit(CEM) == MachineQueued(
        hold=Hold.BUDGET,
        node=SHOP,
        resource=Resource.MONEY,
        asked=Decimal(3),
        available=Decimal(0),
        wants={Resource.MONEY: Decimal(3), Resource.TIME: Decimal(1)},
    )
    assert isinstance(world.ask(DEE, request("1"), OTHER), MachineAdmitted)


def test_a_queued_machine_that_is_tried_in_vain_says_nothing_new(world: World) -> None:
    world.set_budget(SHOP, wanted("5"))
    world.ask(ANN, request("4"))
    world.ask(BOB, request("2"))
    assert not world.decide(world.admit_command(BOB), BOB)


def test_a_queued_machine_is_denied_once_use_leaves_too_little(world: World) -> None:
    world.set_budget(SHOP, wanted("5"))
    world.ask(ANN, request("4"))
    world.ask(BOB, request("2"))
    ended(world, ANN, cost="4")
    world.settle(ANN)
    assert isinstance(world.admit(BOB), MachineDenied)


def test_a_request_delivered_again_is_answered_once(world: World) -> None:
    world.ask(ANN, request())
    assert not world.decide(world.admit_command(ANN), ANN)
    world.set_budget(SHOP, wanted("0"))
    world.ask(BOB, request())
    assert not world.decide(world.admit_command(BOB), BOB)


def test_a_second_request_for_a_machine_does_not_start_it_anew(world: World) -> None:
    world.ask(ANN, request("1"))
    assert world.ask(ANN, request("2")) is None


def test_a_machine_that_nobody_requested_is_not_admitted(world: World) -> None:
    assert not world.decide(world.admit_command(ANN), ANN)


@pytest.mark.parametrize("queued", [True, False])
def test_a_machine_stopped_before_it_was_admitted_ends_cancelled(world: World, *, queued: bool) -> None:
    where = address.machine(SHOP, ANN)
    if queued:
        world.machines_max = 0
        world.ask(ANN, request())
    else:
        world.happen(where, request())
    world.happen(where, MachineStopRequested())
    said = world.do(Cancel(), ANN).machine
    assert said == (MachineEnded(epoch=0, outcome=Outcome.CANCELLED, reason="stopped before it was admitted"),)
    assert not world.decide(Cancel(), ANN)
    assert not world.decide(world.admit_command(ANN), ANN)
    assert not world.queue.waiting


def test_a_stop_that_is_heard_before_the_request_still_cancels(world: World) -> None:
    world.happen(address.machine(SHOP, ANN), request(), MachineStopRequested())
    said = world.admit(ANN)
    assert isinstance(said, MachineEnded)
    assert said.outcome is Outcome.CANCELLED


def test_stopping_an_admitted_machine_is_not_the_budgets_affair(world: World) -> None:
    world.ask(ANN, request())
    world.happen(address.machine(SHOP, ANN), MachineStopRequested())
    assert not world.decide(Cancel(), ANN)


def test_a_machine_queued_for_too_long_expires_and_one_that_was_admitted_does_not(world: World) -> None:
    world.machines_max = 0
    world.ask(ANN, request())
    said = world.do(Expire(), ANN).machine
    assert isinstance(said[0], MachineEnded)
    assert said[0].outcome is Outcome.EXPIRED
    world.machines_max = 1
    world.ask(BOB, request())
    assert not world.decide(Expire(), BOB)


def test_a_cap_set_on_a_machine_before_it_was_admitted_stands(world: World) -> None:
    world.set_budget(str(ANN), wanted("1"))
    said = world.ask(ANN, request("2"))
    assert isinstance(said, MachineDenied)
    assert said.node == str(ANN)


def test_a_machine_whose_id_is_its_projects_slug_cannot_set_the_projects_cap(world: World) -> None:
    slug = str(ANN)
    world.set_budget(slug, wanted("1"), slug=slug)
    assert isinstance(world.ask(ANN, request("1000"), slug), MachineDenied)
    assert [cap.amount for cap in world.allocations(slug, slug)] == [Decimal(1)]


def test_a_machine_of_the_hub_itself_is_held_on_the_hub_once(world: World) -> None:
    world.happen(address.machine(HUB, ANN), request())
    decision = world.decide(world.admit_command(ANN, HUB), ANN, HUB)
    assert list(decision.accounts) == [HUB, str(ANN)]


def test_what_an_account_was_asked_is_answered_before_anything_is_decided_on_it(world: World) -> None:
    world.set_budget(SHOP, wanted("1"))
    world.happen(address.budget(SHOP, SHOP), wanted("3"))
    assert isinstance(world.ask(ANN, request("3")), MachineAdmitted)
    assert [cap.amount for cap in world.allocations(SHOP)] == [Decimal(1), Decimal(3)]


def test_a_project_whose_line_is_full_is_told_at_once_and_nobody_else_is(world: World) -> None:
    world.machines_max, world.queued_max = 0, 2
    first, second, third = (machine_id(number) for number in range(3))
    assert isinstance(world.ask(first, request()), MachineQueued)
    assert isinstance(world.ask(second, request()), MachineQueued)
    refused = world.ask(third, request())
    assert isinstance(refused, MachineEnded)
    assert refused.outcome is Outcome.DENIED
    assert "as many machines of webshop wait as may" in refused.reason
    assert isinstance(world.ask(machine_id(4), request(), "bakery"), MachineQueued)
    assert isinstance(world.admit(first), MachineQueued), "who stands in the line already stays"
    world.machines_max = 10
    assert [slug for slug, _ in world.serve()] == ["bakery", SHOP, SHOP]


def test_a_budget_of_its_own_that_does_not_pay_for_running_it_is_refused_with_what_would() -> None:
    world, hour = World(tariff=Tariff(Decimal("0.05"), Decimal(0))), Limits(cpu_milli=1_000, deadline_s=3_600)
    world.happen(address.machine(SHOP, ANN), request("0.04", limits=hour))
    (denied,) = world.decide(world.admit_command(ANN), ANN).machine
    assert isinstance(denied, MachineDenied)
    assert (denied.node, denied.asked, denied.available) == (str(ANN), Decimal("0.05"), Decimal("0.04"))
    assert "--budget 0.05CAD" in denied.reason
    world.happen(address.machine(SHOP, BOB), request("0.05", limits=hour))
    assert isinstance(world.decide(world.admit_command(BOB), BOB).machine[0], MachineAdmitted)
