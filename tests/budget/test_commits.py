"""Many machines that write to the same accounts above at once: together, each once, and none at the cost of another."""

import asyncio
from decimal import Decimal

import pytest

from domain.budget.envelope import Envelope
from events import address
from events.budget import BudgetExtended
from events.call import CallReserved
from events.envelope import Recorded
from events.ids import HUB
from events.ledger import Granted
from events.words import Resource
from services.budget import drafting
from services.kit.ledger import LedgerUnreachable
from tests.budget.calling import Caller, money, settings
from tests.budget.conftest import Client, Instances
from tests.budget.world import SHOP
from tests.harness import eventually

MACHINES = 14
EACH = 200_000
"""Tokens, a millionth CAD each: more than a machine has to begin with."""
EACH_CAD = Decimal("0.2")


async def open_for(client: Client, instances: Instances, cad: str) -> list[Caller]:
    await instances.start(settings())
    await client.set_budget(HUB, money("100"))
    await client.set_budget(SHOP, money(cad))
    await eventually(client.idle)
    return [await Caller.start(client, None) for _ in range(MACHINES)]


async def extended(client: Client, node: str) -> list[Recorded]:
    owner = HUB if node == HUB else SHOP
    history = await client.bus.log.load(address.budget(owner, node))
    return [each for each in history.events if isinstance(each.event, BudgetExtended)]


async def test_many_at_once_are_decided_one_after_the_other_and_appended_together(
    client: Client, instances: Instances
) -> None:
    callers = await open_for(client, instances, "50")
    answers = await asyncio.gather(*(caller.reserve(EACH) for caller in callers))
    assert all(isinstance(answer, Granted) for answer in answers)
    for node in (HUB, SHOP):
        said = await extended(client, node)
        assert len({each.event.machine_id for each in said if isinstance(each.event, BudgetExtended)}) == MACHINES
        appends = {each.envelope.occurred_at for each in said}
        assert len(appends) < MACHINES // 2, "those who waited for their turn went together"


async def test_those_for_whom_nothing_is_left_are_told_so_and_the_rest_is_granted(
    client: Client, instances: Instances
) -> None:
    callers = await open_for(client, instances, "2")
    answers = await asyncio.gather(*(caller.reserve(EACH) for caller in callers))
    assert sum(isinstance(answer, Granted) for answer in answers) == int(Decimal(2) / EACH_CAD)
    shop = await client.account(SHOP)
    (book,) = (book for (resource, _), book in shop.books.items() if resource is Resource.MONEY)
    assert book.reserved == Decimal(2)


async def test_one_on_whom_deciding_fails_drops_out_alone(
    client: Client, instances: Instances, monkeypatch: pytest.MonkeyPatch
) -> None:
    callers = await open_for(client, instances, "50")
    broken, decided = str(callers[MACHINES // 2].machine_id), drafting.reserve

    def reserve(ask: drafting.Reserve, rates: object, at: Envelope, terms: drafting.Terms) -> drafting.Outcome:
        if at.node == broken:
            raise ZeroDivisionError
        return decided(ask, rates, at, terms)  # pyright: ignore[reportArgumentType] # as it came

    monkeypatch.setattr(drafting, "reserve", reserve)
    answers = await asyncio.gather(*(caller.reserve(EACH) for caller in callers), return_exceptions=True)
    assert sum(isinstance(answer, Granted) for answer in answers) == MACHINES - 1
    assert isinstance(answers[MACHINES // 2], LedgerUnreachable)
    assert not await client.of(CallReserved, address.budget(SHOP, broken))
