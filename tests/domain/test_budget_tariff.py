"""What a machine costs."""

from decimal import Decimal
from uuid import UUID

import pytest
from annotated_types import Le
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel
from pydantic_settings import BaseSettings

from domain.tariff import AMOUNT_MAX, Tariff, price, worst_case
from events.machine import Limits, MachineAdmitted
from events.words import Resource
from services.budget.settings import BudgetSettings
from services.spawner.settings import SpawnerSettings

TARIFF = Tariff(vcpu_hour_cad=Decimal("0.05"), gib_hour_cad=Decimal("0.01"))
limits_of = st.builds(
    Limits,
    cpu_milli=st.integers(50, 256_000),
    memory_mib=st.integers(16, 4_194_304),
    deadline_s=st.integers(1, 30 * 86_400),
    disk_mib=st.integers(16, 1_048_576),
)


def test_two_cores_and_one_gib_for_half_an_hour() -> None:
    bill = price(Limits(cpu_milli=2_000, memory_mib=1_024), Decimal(1_800), TARIFF)
    assert (bill.minutes, bill.cpu_hours, bill.gb_hours) == (30, 1, Decimal("0.5"))
    assert (bill.cpu_cad, bill.memory_cad, bill.cad) == (Decimal("0.05"), Decimal("0.005"), Decimal("0.055"))


def test_a_hold_is_rounded_up_and_use_is_rounded_down() -> None:
    limits = Limits(cpu_milli=1_000, memory_mib=1_024, deadline_s=1)
    assert worst_case(limits, TARIFF).cpu_cad == Decimal("0.000013889")
    assert price(limits, Decimal(1), TARIFF).cpu_cad == Decimal("0.000013888")


def test_a_span_before_its_beginning_costs_nothing() -> None:
    assert price(Limits(), Decimal(-1), TARIFF).cad == 0


def most(model: type[BaseModel], name: str) -> Decimal:
    """Return the largest value that a field may have."""
    (bound,) = [each.le for each in model.model_fields[name].metadata if isinstance(each, Le)]
    return Decimal(str(bound))


@pytest.mark.parametrize("settings", [BudgetSettings, SpawnerSettings])
def test_the_dearest_machine_at_the_dearest_tariff_is_an_amount_that_can_be_said(settings: type[BaseSettings]) -> None:
    dearest = Limits.model_validate({name: int(most(Limits, name)) for name in Limits.model_fields})
    prices = ("vcpu_hour_cad", "gib_hour_cad", "storage_gib_hour_cad")
    tariff = Tariff(*(most(settings, price) for price in prices))
    asked = worst_case(dearest, tariff)
    held = {Resource.MONEY: asked.cad, Resource.TIME: asked.minutes}
    admitted = MachineAdmitted(reservation_id=UUID(int=1), held=held)
    assert MachineAdmitted.model_validate_json(admitted.body()) == admitted
    assert asked.cad < AMOUNT_MAX


@given(limits_of, st.lists(st.decimals(0, 1, places=6), min_size=1, max_size=5), st.decimals(0, 100, places=9))
def test_the_parts_of_a_deadline_never_cost_more_than_was_held_for_the_whole(
    limits: Limits, shares: list[Decimal], rate: Decimal
) -> None:
    tariff = Tariff(vcpu_hour_cad=rate, gib_hour_cad=rate / 2, storage_gib_hour_cad=rate / 3)
    total = max(sum(shares), Decimal(1))
    bills = [price(limits, Decimal(limits.deadline_s) * share // total, tariff) for share in shares]
    held = worst_case(limits, tariff)
    assert sum(bill.cad for bill in bills) <= held.cad
    assert sum(bill.minutes for bill in bills) <= held.minutes
    assert sum(bill.cpu_hours for bill in bills) <= held.cpu_hours
    assert sum(bill.gb_hours for bill in bills) <= held.gb_hours
    assert sum(bill.storage_gb_hours for bill in bills) <= held.storage_gb_hours
