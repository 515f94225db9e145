"""What accounts may use, period by period, and what they say when it runs out."""

from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest

from domain.budget import balances
from domain.budget.account import bounded
from domain.periods import TOTAL_START
from events import address
from events.budget import (
    BudgetAllocated,
    BudgetExhausted,
    BudgetRefused,
    BudgetReleased,
    BudgetSettled,
    BudgetThresholdCrossed,
)
from events.checkpoint import Balance
from events.ids import HUB
from events.machine import MachineAdmitted, MachineDenied, MachineEnded, UsageRecorded
from events.words import BudgetPeriod, Outcome, Resource, Unit
from tests.budget.world import NOW, SHOP, World, machine_id, request, wanted

ANN, BOB, CEM = (machine_id(number) for number in range(3))
DAILY, TOTAL = BudgetPeriod.DAILY, BudgetPeriod.TOTAL


@pytest.fixture
def world() -> World:
    return World()


def usage(
    cost: str, resource: Resource = Resource.CPU, amount: str = "1", unit: Unit = Unit.CPU_HOURS
) -> UsageRecorded:
    return UsageRecorded(
        epoch=1,
        resource_type=resource,
        resource_subtype="vm_runtime",
        amount=Decimal(amount),
        unit=unit,
        cost_cad=Decimal(cost),
        period_start=NOW,
        period_end=NOW,
    )


def end(world: World, *used: UsageRecorded, who: object = ANN) -> None:
    ended = MachineEnded(epoch=1, outcome=Outcome.SUCCEEDED)
    world.happen(address.machine(SHOP, who), *used, ended)


def used_of(world: World, node: str, resource: Resource = Resource.MONEY, period: BudgetPeriod = TOTAL) -> Decimal:
    return world.account(node).books[resource, period].used


def reserved_of(world: World, node: str, resource: Resource = Resource.MONEY) -> Decimal:
    return world.account(node).books[resource, TOTAL].reserved


# Allocating


def test_a_request_is_answered_by_an_allocation_of_the_running_period(world: World) -> None:
    assert world.set_budget(SHOP, wanted("5", period=DAILY, time_zone="America/Toronto")) == (
        BudgetAllocated(
            resource=Resource.MONEY,
            amount=Decimal(5),
            unit=Unit.CAD,
            period=DAILY,
            period_start=datetime(2026, 3, 4, 5, tzinfo=UTC),
            period_end=datetime(2026, 3, 5, 5, tzinfo=UTC),
            time_zone="America/Toronto",
        ),
    )


def test_a_request_that_is_delivered_again_is_answered_once(world: World) -> None:
    assert world.set_budget(SHOP, wanted("5"))
    assert world.set_budget(SHOP) == ()


def test_of_two_requests_for_one_period_the_last_is_answered(world: World) -> None:
    said = world.set_budget(SHOP, wanted("5"), wanted("6"))
    assert [event.amount for event in said if isinstance(event, BudgetAllocated)] == [Decimal(6)]


@pytest.mark.parametrize(
    ("asked", "reason"),
    [
        (
            wanted("5", unit=Unit.USD),
            (
                "money is budgeted in CAD, not in USD; say it in CAD, whatever the providers bill in: exchange rates "
                "move, a budget does not"
            ),
        ),
        (wanted("5", Resource.CPU, unit=Unit.HOURS), "cpu is budgeted in cpu_hours, not in hours"),
        (wanted("0.5", Resource.API_CALLS), "0.5 calls: calls are whole"),
        (
            wanted("5", time_zone="Mars/Olympus"),
            "time zone 'Mars/Olympus' does not exist; use an IANA name like 'America/Toronto'",
        ),
    ],
)
def test_what_makes_no_sense_is_refused_once_with_its_reason(world: World, asked: object, reason: str) -> None:
    assert isinstance(asked, type(wanted("1")))
    assert world.set_budget(SHOP, asked) == (BudgetRefused(resource=asked.resource, reason=reason),)
    assert world.set_budget(SHOP) == ()
    assert not world.account(SHOP).books


def test_an_account_that_cannot_be_is_refused(world: World) -> None:
    said = world.set_budget("bakery", wanted("5"))
    assert isinstance(said[0], BudgetRefused)
    assert "no account 'bakery' in webshop" in said[0].reason


def test_a_refused_request_does_not_keep_the_next_period_from_opening(world: World) -> None:
    world.set_budget(SHOP, wanted("5", period=DAILY))
    world.now += timedelta(days=1)
    refused, opened = world.set_budget(SHOP, wanted("6", period=DAILY, unit=Unit.USD))
    assert isinstance(refused, BudgetRefused)
    assert isinstance(opened, BudgetAllocated)
    assert opened.amount == 5


def test_a_top_up_leaves_what_was_used_and_reserved(world: World) -> None:
    world.set_budget(SHOP, wanted("5"))
    world.ask(ANN, request("4"))
    world.set_budget(SHOP, wanted("10"))
    assert reserved_of(world, SHOP) == 4
    assert isinstance(world.ask(BOB, request("6")), MachineAdmitted)


def test_an_allocation_may_be_lowered_below_what_is_used_and_reserved(world: World) -> None:
    world.set_budget(SHOP, wanted("5"))
    world.ask(ANN, request("4"))
    world.set_budget(SHOP, wanted("1"))
    assert isinstance(world.ask(BOB, request("2")), MachineDenied)
    end(world, usage("3"))
    world.settle(ANN)
    assert balances(world.account(SHOP))[Resource.MONEY] == Balance(
        allocated=Decimal(1), used=Decimal(3), reserved=Decimal(0)
    )


def test_asking_for_another_zone_does_not_give_the_day_a_second_time(world: World) -> None:
    world.set_budget(SHOP, wanted("5", period=DAILY))
    world.ask(ANN, request("4"))
    end(world, usage("4"))
    world.settle(ANN)
    world.set_budget(SHOP, wanted("5", period=DAILY, time_zone="Pacific/Auckland"))
    assert isinstance(world.ask(BOB, request("2")), MachineDenied)


# Periods


def test_a_new_day_is_a_new_allocation_when_somebody_first_needs_it(world: World) -> None:
    world.set_budget(SHOP, wanted("5", period=DAILY))
    world.ask(ANN, request("5"))
    end(world, usage("5"))
    world.settle(ANN)
    assert isinstance(world.ask(BOB, request("5")), MachineDenied)
    world.now += timedelta(days=3)
    assert isinstance(world.ask(CEM, request("5")), MachineAdmitted)
    assert [cap.period_start.day for cap in world.allocations(SHOP)] == [4, 7]


def test_a_reservation_counts_and_is_settled_in_the_day_in_which_it_was_made(world: World) -> None:
    world.set_budget(SHOP, wanted("5", period=DAILY))
    world.ask(ANN, request("5"))
    world.now += timedelta(days=1)
    assert isinstance(world.ask(BOB, request("5")), MachineAdmitted)
    end(world, usage("4"))
    world.settle(ANN)
    yesterday = next(iter(world.account(SHOP).past.values()))
    assert (yesterday.start.day, yesterday.used, yesterday.reserved) == (4, 4, 0)
    assert used_of(world, SHOP, period=DAILY) == 0
    assert used_of(world, SHOP) == 4


def test_a_day_without_open_reservations_is_forgotten_when_the_next_begins(world: World) -> None:
    world.set_budget(SHOP, wanted("5", period=DAILY))
    world.ask(ANN, request("1"))
    world.now += timedelta(days=1)
    world.ask(BOB, request("1"))
    assert len(world.account(SHOP).past) == 1
    end(world)
    world.settle(ANN)
    world.ask(CEM, request("1"))
    assert not world.account(SHOP).past


def test_an_allocation_that_does_not_reset_allows_nothing_once_its_day_is_over(world: World) -> None:
    world.set_budget(SHOP, wanted("5", period=DAILY, auto_reset=False))
    world.now += timedelta(days=1)
    said = world.ask(ANN, request("1"))
    assert isinstance(said, MachineDenied)
    assert said.available == 0
    assert "does not reset" in said.reason
    world.set_budget(SHOP, wanted("5", period=DAILY, auto_reset=False))
    assert isinstance(world.ask(BOB, request("1")), MachineAdmitted)


def test_what_asks_for_nothing_runs_beside_an_allocation_that_is_over(world: World) -> None:
    world.set_budget(SHOP, wanted("5", period=DAILY, auto_reset=False))
    world.now += timedelta(days=1)
    world.ask(ANN, request("0"))
    end(world, usage("1"))
    world.settle(ANN)
    assert used_of(world, SHOP, period=DAILY) == 0
    assert used_of(world, SHOP) == 1


def test_a_period_in_another_zone_begins_where_the_last_one_ended(world: World) -> None:
    world.set_budget(SHOP, wanted("5", period=DAILY, time_zone="America/Toronto"))
    world.now = datetime(2026, 3, 5, 6, tzinfo=UTC)
    world.set_budget(SHOP, wanted("5", period=DAILY))
    first, second = world.allocations(SHOP)
    assert first.period_end == second.period_start == datetime(2026, 3, 5, 5, tzinfo=UTC)
    assert second.period_end == datetime(2026, 3, 6, tzinfo=UTC)


def test_a_clock_that_is_behind_does_not_reopen_the_day_before(world: World) -> None:
    world.set_budget(SHOP, wanted("5", period=DAILY))
    world.now -= timedelta(days=1)
    assert isinstance(world.ask(ANN, request("5")), MachineAdmitted)
    assert len(world.allocations(SHOP)) == 1


# Settling


def test_what_was_used_is_settled_on_every_account_and_the_rest_is_free_again(world: World) -> None:
    world.ask(ANN, request("3", calls="10", deadline_s=600))
    end(
        world,
        usage("0", Resource.TIME, "2.5", Unit.MINUTES),
        usage("0.25"),
        usage("0.125", Resource.MEMORY, "0.1", Unit.GB_HOURS),
        usage("1", Resource.API_CALLS, "7", Unit.CALLS),
    )
    decision = world.settle(ANN)
    assert not decision.machine
    assert set(decision.accounts) == {HUB, SHOP, str(ANN)}
    for node in (HUB, SHOP, str(ANN)):
        assert used_of(world, node) == Decimal("1.375")
        assert used_of(world, node, Resource.TIME) == Decimal("2.5")
        assert used_of(world, node, Resource.API_CALLS) == 7
        assert reserved_of(world, node) == 0
        assert not world.account(node).holds


def test_hours_count_as_minutes(world: World) -> None:
    world.ask(ANN, request())
    end(world, usage("0", Resource.TIME, "1.5", Unit.HOURS))
    world.settle(ANN)
    assert used_of(world, SHOP, Resource.TIME) == 90


def test_a_reservation_is_resolved_once(world: World) -> None:
    world.ask(ANN, request())
    end(world, usage("1"))
    assert world.settle(ANN)
    assert not world.settle(ANN)
    assert used_of(world, HUB) == 1


def test_a_machine_that_used_nothing_gives_its_reservation_back(world: World) -> None:
    world.ask(ANN, request())
    end(world)
    said = world.settle(ANN).accounts[SHOP]
    assert len(said) == 1
    assert isinstance(said[0], BudgetReleased)
    assert reserved_of(world, SHOP) == 0


def test_a_machine_that_still_runs_is_not_settled(world: World) -> None:
    world.ask(ANN, request())
    world.happen(address.machine(SHOP, ANN), usage("1"))
    assert not world.settle(ANN)


def test_a_machine_that_was_never_admitted_has_nothing_to_settle(world: World) -> None:
    world.set_budget(SHOP, wanted("0"))
    world.ask(ANN, request("1"))
    assert not world.settle(ANN)


def test_use_beyond_the_reservation_is_recorded(world: World) -> None:
    world.set_budget(SHOP, wanted("5"))
    world.ask(ANN, request("1"))
    end(world, usage("7"))
    world.settle(ANN)
    assert used_of(world, SHOP) == used_of(world, HUB) == 7
    assert isinstance(world.ask(BOB, request("0.01")), MachineDenied)


def test_calls_that_nobody_had_reserved_are_recorded(world: World) -> None:
    world.set_budget(SHOP, wanted("10", Resource.API_CALLS, DAILY))
    world.ask(ANN, request("1"))
    end(world, usage("0", Resource.API_CALLS, "3", Unit.CALLS))
    world.settle(ANN)
    assert used_of(world, SHOP, Resource.API_CALLS) == used_of(world, SHOP, Resource.API_CALLS, DAILY) == 3


# Thresholds


def test_thresholds_are_said_once_per_period_and_exhaustion_too(world: World) -> None:
    world.set_budget(SHOP, wanted("10", period=DAILY))

    def use(number: int, cost: str) -> list[object]:
        who = machine_id(number)
        world.ask(who, request("0"))
        end(world, *([usage(cost)] if Decimal(cost) else []), who=who)
        said = world.settle(who).accounts[SHOP]
        return [
            event.percent if isinstance(event, BudgetThresholdCrossed) else type(event)
            for event in said
            if not isinstance(event, BudgetSettled)
        ]

    assert use(1, "4.999999999") == []
    assert use(2, "0.000000001") == [50]
    assert use(3, "0") == [BudgetReleased]
    assert use(4, "4.6") == [80, 95]
    assert use(5, "0.4") == [100, BudgetExhausted]
    assert use(7, "1") == []
    world.now += timedelta(days=1)
    assert use(6, "5") == [50]


def test_lowering_an_allocation_crosses_thresholds_and_raising_it_does_not_uncross_them(world: World) -> None:
    world.set_budget(SHOP, wanted("100"))
    world.ask(ANN, request("6"))
    end(world, usage("6"))
    world.settle(ANN)
    said = world.set_budget(SHOP, wanted("10"))
    assert [event.percent for event in said if isinstance(event, BudgetThresholdCrossed)] == [50]
    world.set_budget(SHOP, wanted("100"))
    assert len(world.set_budget(SHOP, wanted("10"))) == 1


def test_a_cap_of_zero_that_nothing_was_used_of_is_not_exhausted(world: World) -> None:
    assert len(world.set_budget(SHOP, wanted("0"))) == 1


def test_a_threshold_is_crossed_in_a_period_that_is_over(world: World) -> None:
    world.set_budget(SHOP, wanted("10", period=DAILY))
    world.ask(ANN, request("5"))
    world.now += timedelta(days=1)
    end(world, usage("5"))
    said = world.settle(ANN).accounts[SHOP]
    crossed = [event for event in said if isinstance(event, BudgetThresholdCrossed)]
    assert [(event.percent, event.period_start.day) for event in crossed] == [(50, 4)]


# Balances


def test_a_balance_is_of_the_period_with_the_least_left_and_only_where_there_is_a_cap(world: World) -> None:
    world.set_budget(SHOP, wanted("100"), wanted("5", period=DAILY))
    world.ask(ANN, request("2"))
    assert balances(world.account(SHOP)) == {
        Resource.MONEY: Balance(allocated=Decimal(5), used=Decimal(0), reserved=Decimal(2))
    }
    assert balances(world.account(HUB)) == {}


def test_totals_are_kept_without_a_cap_so_that_a_later_one_counts_what_was_used(world: World) -> None:
    world.ask(ANN, request("2"))
    end(world, usage("2"))
    world.settle(ANN)
    world.set_budget(SHOP, wanted("3"))
    assert world.account(SHOP).books[Resource.MONEY, TOTAL].start == TOTAL_START
    assert isinstance(world.ask(BOB, request("2")), MachineDenied)


def test_an_amount_that_no_event_could_say_is_said_as_the_largest_that_it_can() -> None:
    assert bounded(Decimal(10) ** 12) == Decimal("99999999999.999999999")
    assert bounded(Decimal(-1)) == 0
