"""What an incarnation used is charged within what was set aside for it."""

from dataclasses import replace
from datetime import timedelta
from decimal import Decimal

from hypothesis import given as given_any
from hypothesis import strategies as st

from domain import machine_commands as c
from domain.machine import decide
from domain.machine_state import Machine, evolve
from domain.tariff import Tariff, worst_case
from domain.usage import is_usage_due, usage_of
from events import machine as m
from events.words import Outcome, Resource, Unit
from tests.domain.machine_cases import T0, booted, given, provisioned, requested, working

MINUTE = timedelta(minutes=1)
TARIFF = Tariff(storage_gib_hour_cad=Decimal("0.0003"))


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


@given_any(st.lists(st.integers(0, 400_000_000), min_size=1, max_size=8))
def test_what_is_recorded_while_it_works_adds_up_to_what_it_would_be_at_its_end(spans_us: list[int]) -> None:
    """No moment counts twice or not at all; what is rounded down each time is less than was held."""
    machine, until, lines = given(*working(1)), T0, list[m.UsageRecorded]()
    whole = usage_of(machine, T0 + timedelta(microseconds=sum(spans_us)), TARIFF)
    for span_us in spans_us:
        until += timedelta(microseconds=span_us)
        assert is_usage_due(machine, until, 60.0) == (until - (lines[-1].period_end if lines else T0) >= MINUTE)
        said = decide(c.Meter(1, usage_of(machine, until, TARIFF)), machine)
        assert len(said) == len(whole)
        for line in said:
            assert isinstance(line, m.UsageRecorded)
            lines.append(line)
            machine = evolve(machine, line, until)
    for total in whole:
        parts = [line for line in lines if line.resource_type == total.resource_type]
        assert parts[0].period_start == total.period_start
        assert parts[-1].period_end == total.period_end
        assert 0 <= total.amount - sum(part.amount for part in parts) < Decimal(len(parts)) / 10**9
        assert 0 <= total.cost_cad - sum(part.cost_cad for part in parts) < Decimal(len(parts)) / 10**9


def test_a_span_that_was_recorded_meanwhile_is_not_recorded_again() -> None:
    machine = given(*working(1))
    stale = usage_of(machine, T0 + MINUTE, TARIFF)
    for line in stale:
        machine = evolve(machine, line, T0 + MINUTE)
    assert decide(c.Meter(1, stale), machine) == []
    assert decide(c.Meter(2, usage_of(machine, T0 + 2 * MINUTE, TARIFF)), machine) == [], "another epoch"


def test_what_an_incarnation_carried_is_recorded_once_it_has_told_and_is_free() -> None:
    machine = given(*working(1))
    finished = c.Finished(1, Outcome.SUCCEEDED, 0, network_bytes=1_234_567_890)
    for event in decide(finished, machine):
        machine = evolve(machine, event, T0)
    (carried,) = [line for line in usage_of(machine, T0 + MINUTE, TARIFF) if line.resource_type is Resource.NETWORK]
    assert (carried.amount, carried.unit, carried.cost_cad) == (Decimal("1.23456789"), Unit.GB, 0)
    assert not [line for line in usage_of(given(*working(1)), T0 + MINUTE, TARIFF) if line.unit is Unit.GB]
