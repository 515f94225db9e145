"""What an incarnation used is charged within what was set aside for it."""

from dataclasses import replace
from datetime import timedelta
from decimal import Decimal

from hypothesis import given as given_any
from hypothesis import strategies as st

from domain.machine_state import Machine, evolve
from domain.tariff import Tariff, worst_case
from domain.usage import usage_of
from events import machine as m
from tests.domain.machine_cases import T0, booted, given, provisioned, requested, working

TARIFF = Tariff()


def test_nothing_is_charged_for_what_never_booted() -> None:
    assert usage_of(given(requested(), provisioned(1)), T0 + timedelta(hours=1), TARIFF) == ()
    assert usage_of(Machine(), T0, TARIFF) == ()


def test_what_the_hub_takes_beyond_the_deadline_costs_nobody_anything() -> None:
    machine = given(*working(1))
    deadline = timedelta(seconds=requested().limits.deadline_s)
    assert usage_of(machine, T0 + 2 * deadline, TARIFF) == usage_of(machine, T0 + deadline, TARIFF)


def test_a_clock_that_went_back_charges_nothing() -> None:
    assert all(line.amount == 0 for line in usage_of(given(*working(1)), T0 - timedelta(hours=1), TARIFF))


@given_any(st.lists(st.integers(0, 5_000_000_000), min_size=1, max_size=5), st.integers(1, 5_000))
def test_all_incarnations_together_never_cost_more_than_was_held(spans_us: list[int], deadline_s: int) -> None:
    limits = m.Limits(deadline_s=deadline_s, cpu_milli=333, memory_mib=777)
    machine = given(requested().model_copy(update={"limits": limits}))
    cost, minutes = Decimal(0), Decimal(0)
    for epoch, span_us in enumerate(spans_us, 1):
        for event in (provisioned(epoch), booted(epoch)):
            machine = evolve(machine, event, T0)
        for line in usage_of(machine, T0 + timedelta(microseconds=span_us), TARIFF):
            cost += line.cost_cad
            minutes += line.amount if line.unit == "minutes" else 0
            machine = evolve(machine, line, T0)
    held = worst_case(limits, TARIFF)
    assert cost <= held.cad
    assert minutes <= held.minutes
    assert machine.incarnation is not None
    assert usage_of(machine, T0, TARIFF) == ()
    assert usage_of(replace(machine, incarnation=None), T0, TARIFF) == ()
