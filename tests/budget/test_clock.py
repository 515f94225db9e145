"""A wall clock that is set forth and back while calls are open: no lease ends by it, and nobody gets a day's money twice."""

from dataclasses import dataclass, field
from datetime import datetime, timedelta
from decimal import Decimal

import pytest

from events import address, fresh
from events.budget import BudgetAllocated
from events.call import CallReserved, CallSettled
from events.ledger import Granted
from events.words import BudgetPeriod, Resource
from tests.budget.calling import Caller, money, settings
from tests.budget.conftest import Client, Instances
from tests.budget.world import SHOP
from tests.harness import eventually

pytestmark = pytest.mark.timeout(60)
DAILY = money("1").model_copy(update={"period": BudgetPeriod.DAILY})


@dataclass
class Clock:
    moved: timedelta = field(default_factory=timedelta)

    def now(self) -> datetime:
        return fresh.now() + self.moved


async def test_calls_outlive_a_clock_that_jumps_and_a_day_that_has_begun_does_not_begin_again(
    client: Client, instances: Instances
) -> None:
    clock = Clock()
    await instances.start(settings(call_lease_s=30), clock.now)
    await client.set_budget(SHOP, DAILY)
    await eventually(client.idle)
    caller = await Caller.start(client, money="0.9")
    open_all_along = await caller.granted(100_000)
    for days in (3, -9, 9):
        clock.moved += timedelta(days=days)
        call = await caller.granted(200_000)
        assert (await caller.settle(call.call_id, 50_000)).cost_cad == Decimal("0.05")
    own = address.budget(SHOP, caller.machine_id)
    assert not any(one.estimated for one in await client.of(CallSettled, own)), "no lease has ended"
    assert len(await client.of(CallReserved, own)) == 4
    assert (await caller.settle(open_all_along.call_id, 60_000)).spent_cad == Decimal("0.21")
    assert not isinstance(await caller.reserve(700_000), Granted), "there are 0.9 CAD, whatever day it is"

    async def drawn() -> bool:
        books = [book for book in (await client.account(SHOP)).all_books() if book.resource is Resource.MONEY]
        for book in books:
            assert book.allocated is None or book.used + book.reserved <= book.allocated
        return sum((book.used for book in books if book.period is BudgetPeriod.DAILY), Decimal(0)) == Decimal("0.21")

    await eventually(drawn)
    begun = [one.period_start for one in await client.of(BudgetAllocated, address.budget(SHOP, SHOP))]
    assert begun == sorted(set(begun)), "each day begins once, and none after a later one"
