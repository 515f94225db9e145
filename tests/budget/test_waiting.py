"""Model calls that wait while their budget or their gateway dies."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from unittest.mock import patch

import pytest
import pytest_asyncio

from events import address
from events.call import CallReserved
from events.ledger import SUBJECTS, Granted, Reserve, Waiting
from services.budget import calls
from services.budget.app import Budget
from services.kit.errors import Transient
from services.kit.ledger import LedgerClient, LedgerUnreachable
from tests.budget.calling import Caller, money, settings
from tests.budget.conftest import Client, Instances
from tests.budget.world import SHOP
from tests.harness import eventually

MILLION = 1_000_000


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calls, "POLL_S", 0.2)


@pytest_asyncio.fixture
async def budget(client: Client, instances: Instances) -> AsyncIterator[Budget]:
    running = await instances.start(settings())
    await client.set_budget(SHOP, money("3"))
    await eventually(client.idle)
    yield running


async def test_a_call_that_waits_is_asked_for_again_and_again_and_reserved_once(budget: Budget, client: Client) -> None:
    holder, caller = await Caller.start(client, "2.5"), await Caller.start(client, None)
    waiting = asyncio.create_task(caller.reserve(MILLION, wait_s=30))
    await asyncio.wait({waiting}, timeout=1)
    assert not waiting.done()
    await client.end(holder.machine_id, cost="0.1")
    assert isinstance(await waiting, Granted)
    assert len(await client.of(CallReserved, address.budget(SHOP, caller.machine_id))) == 1


async def test_a_call_that_waits_outlives_its_budget_and_keeps_its_place(
    budget: Budget, client: Client, instances: Instances
) -> None:
    holder = await Caller.start(client, "2.5")
    # A lost answer is noticed in so long; the default would do, later.
    first, second = [
        replace(await Caller.start(client, None), ledger=LedgerClient(client.bus.wire, timeout_s=1)) for _ in range(2)
    ]
    waits = [asyncio.create_task(first.reserve(2 * MILLION, wait_s=30))]
    await asyncio.wait(waits, timeout=0.5)
    waits.append(asyncio.create_task(second.reserve(2 * MILLION, wait_s=30)))
    await asyncio.wait(waits, timeout=0.5)
    await instances.kill(budget)
    await asyncio.wait(waits, timeout=0.5)
    await instances.start(settings())
    await asyncio.wait(waits, timeout=2)
    assert not any(each.done() for each in waits)
    await client.end(holder.machine_id, cost="0.1")
    assert isinstance(await waits[0], Granted), "who came first is first with the next budget, too"
    assert not waits[1].done()
    await client.set_budget(SHOP, money("5"))
    assert isinstance(await waits[1], Granted)


async def test_one_whose_gateway_has_died_is_never_granted_and_makes_way(
    budget: Budget, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(calls, "SILENCE_S", 2.0)
    holder, gone, behind = [await Caller.start(client, cad) for cad in ("2.5", None, None)]
    ask = gone.ask(MILLION, wait_s=60)
    reply = await client.bus.nc.request(SUBJECTS[Reserve], ask.model_dump_json().encode(), timeout=10)
    assert Waiting.model_validate_json(reply.data).ask_again, "and then nobody does"
    waiting = asyncio.create_task(behind.reserve(300_000, wait_s=30))
    assert isinstance(await waiting, Granted), "there is room for it, and nobody stands before it any more"
    await client.end(holder.machine_id, cost="0.1")
    await eventually(client.idle)
    assert not await client.of(CallReserved, address.budget(SHOP, gone.machine_id))


async def test_a_budget_that_stops_while_calls_wait_ends_at_once_and_grants_nothing_more(
    budget: Budget, client: Client, instances: Instances
) -> None:
    await Caller.start(client, "2.5")
    first, second, third = [await Caller.start(client, None) for _ in range(3)]
    waits = [asyncio.create_task(each.reserve(2 * MILLION, wait_s=30)) for each in (first, second)]
    await asyncio.wait(waits, timeout=0.5)
    async with asyncio.timeout(5):
        stopping = asyncio.create_task(instances.stop(budget))
        await asyncio.wait({stopping}, timeout=0.05)
        with pytest.raises(LedgerUnreachable):
            await third.reserve(1_000)
        await stopping
    assert not any(each.done() for each in waits), "they go on waiting for the next one"
    for each in waits:
        each.cancel()


async def test_however_many_of_a_machine_wait_what_makes_room_is_taken_and_all_are_granted_then(
    budget: Budget, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(calls, "WAITING_MAX", 280)
    await Caller.start(client, "2.5")
    caller = replace(await Caller.start(client, None), ledger=LedgerClient(client.bus.wire))
    first = await caller.granted(1_000)
    asks = [caller.ask(600_000, wait_s=60) for _ in range(300)]
    waits = [asyncio.create_task(caller.ledger.reserve(ask)) for ask in asks]

    def told_to_come_again() -> bool:
        return sum(each.done() for each in waits) == 20

    await eventually(told_to_come_again, timeout_s=30)
    waiting = [each for each in waits if not each.done()]
    assert (await caller.settle(first.call_id, 1_000)).cost_cad, "though as many wait as may"
    await client.set_budget(SHOP, money("500"))
    assert all(isinstance(answer, Granted) for answer in await asyncio.gather(*waiting))


async def test_a_decision_that_never_comes_ends_as_unreachable_not_as_waiting(budget: Budget, client: Client) -> None:
    caller = await Caller.start(client, "1")
    ledger = LedgerClient(client.bus.wire, timeout_s=0.5)
    commits = budget._calls._commits  # pyright: ignore[reportPrivateUsage] # where a log hangs that takes nothing

    async def hang(*_: object) -> None:
        await asyncio.sleep(3)
        raise Transient("the deadline passed")

    with patch.object(commits, "commit", hang), pytest.raises(LedgerUnreachable, match="no decision"):
        await ledger.reserve(caller.ask(1_000))
