"""Many calls of many machines at once on one budget, while the budget is killed with -9, and the log too.

As many as the promise names, in some minutes:

    SOAK_CALLS=10000 SOAK_MACHINES=200 pytest tests/budget/test_many_calls.py --timeout 1800
"""

import asyncio
import os
import random
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field, replace
from decimal import Decimal
from typing import TypeVar
from uuid import UUID

import pytest

from cli.stack.nats import EmbeddedNats
from domain.budget import Account, account
from domain.budget.calls import Calls
from domain.budget.calls import evolve as evolve_calls
from events.call import CallCorrected, CallReserved, CallSettled, CallVoided, Tokens
from events.envelope import Recorded
from events.ids import HUB
from events.ledger import Granted, Observe, Reserve, Void
from events.words import BudgetPeriod, HoldMode, Resource
from services.gateway.account import RETRY_MAX_S, RETRY_MIN_S
from services.kit.bus import BusSettings
from services.kit.ledger import LedgerClient, LedgerRefused, LedgerUnreachable
from tests.budget.calling import Caller, budget_process, money
from tests.budget.conftest import Client
from tests.budget.world import SHOP
from tests.harness import eventually

CALLS = int(os.environ.get("SOAK_CALLS", "300"))
MACHINES = int(os.environ.get("SOAK_MACHINES", "12"))
KILLS = max(2, CALLS // 1_000)
SEED = int(os.environ.get("SOAK_SEED", "7"))
SETTINGS = {"slice_cad": "0.05", "machines_max": "1000", "call_lease_s": "4", "log_level": "error"}
AT_ONCE_OF_A_MACHINE = 3
TOKENS_MAX = 40_000
INSIST_S = 120.0
PROCESS_S = 60.0
MILLIONTH = Decimal("0.000001")
T = TypeVar("T")


@dataclass
class Provider:
    """What a model provider would bill for the calls that reached it."""

    bill: dict[UUID, Decimal] = field(default_factory=dict[UUID, Decimal])
    told: set[UUID] = field(default_factory=set[UUID])
    """Calls of which the budget has acknowledged what they used."""
    voided: set[UUID] = field(default_factory=set[UUID])
    calls: int = 0


async def insist(ask: Callable[[], Awaitable[T]]) -> T:
    """Ask until there is an answer, as the gateway does with what must be said."""
    pause_s, clock = RETRY_MIN_S, asyncio.get_running_loop().time
    began, heard = clock(), list[str]()
    try:
        async with asyncio.timeout(INSIST_S):
            while True:
                try:
                    return await ask()
                except LedgerUnreachable as error:
                    heard.append(f"after {clock() - began:.1f} s: {error}")
                    await asyncio.sleep(pause_s)
                    pause_s = min(RETRY_MAX_S, 2 * pause_s)
    except TimeoutError as error:
        raise AssertionError(f"no answer within {INSIST_S:g} s, but\n" + "\n".join(heard)) from error


async def one_call(caller: Caller, provider: Provider, chance: random.Random) -> bool:
    """Make a call with a random fate; returns whether it was granted."""
    ask = caller.ask(
        chance.randint(100, TOKENS_MAX),
        wait_s=chance.choice((0.0, 0.0, 0.5)),
        mode=chance.choice((HoldMode.STRICT, HoldMode.CLAMPED)),
    )
    provider.calls += 1
    if chance.random() < 0.03:
        return await given_up(caller, ask, provider, chance)
    answer = await insist(lambda: caller.ledger.reserve(ask))
    if not isinstance(answer, Granted):
        return False
    await resolved(caller, ask, answer, provider, chance)
    return True


async def given_up(caller: Caller, ask: Reserve, provider: Provider, chance: random.Random) -> bool:
    """The client goes while its reservation is under way: nothing is forwarded, and nothing may stay open."""
    asking = asyncio.ensure_future(insist(lambda: caller.ledger.reserve(ask)))
    await asyncio.wait({asking}, timeout=chance.random() * 0.02)
    asking.cancel()
    await asyncio.wait({asking})
    provider.voided.add(ask.call_id)
    await insist(lambda: caller.void(ask.call_id))
    return True


async def resolved(caller: Caller, ask: Reserve, granted: Granted, provider: Provider, chance: random.Random) -> None:
    call_id = ask.call_id
    tokens = Tokens(input=chance.randint(0, ask.input_tokens_max), output=chance.randint(0, granted.output_tokens_max))
    fate = chance.random()
    if fate < 0.05:
        provider.voided.add(call_id)
        void = Void(call_id=call_id, project=SHOP, machine_id=caller.machine_id, epoch=1, reason="529")
        await insist(lambda: caller.ledger.void(void))
        return
    provider.bill[call_id] = tokens.total * MILLIONTH
    if fate < 0.15:
        seen = Tokens(input=tokens.input)
        observed = Observe(call_id=call_id, project=SHOP, machine_id=caller.machine_id, epoch=1, tokens=seen)
        await insist(lambda: caller.ledger.observe(observed))
    if fate < 0.08:
        return  # the gateway dies, and its lease ends
    usage = caller.usage(call_id, 0).model_copy(update={"tokens": tokens})
    for _ in range(chance.choice((1, 1, 1, 2))):
        try:
            await insist(lambda: caller.ledger.settle(usage))
        except LedgerRefused:
            return  # its lease had ended while the budget was away
    provider.told.add(call_id)


def check_every_prefix(log: list[Recorded]) -> None:
    """Nobody ever has more used and reserved than was allocated, nor a machine more calls open than was set aside."""
    accounts: dict[tuple[str, str], Account] = {}
    calls: dict[str, Calls] = {}
    for recorded in log:
        where = recorded.envelope.address
        state = account.evolve(accounts.get((where.project, where.id), Account()), recorded.event)
        accounts[where.project, where.id] = state
        for book in state.books.values():
            assert book.allocated is None or book.used + book.reserved <= book.allocated, (recorded.seq, where, book)
        own = evolve_calls(calls.get(where.id, Calls()), recorded.event)
        calls[where.id] = own
        held = [
            line.amount
            for hold in state.holds.values()
            for line in hold.lines
            if line.resource is Resource.MONEY and line.period is BudgetPeriod.TOTAL
        ]
        open_and_undrawn = own.held.get(Resource.MONEY, Decimal(0)) + own.undrawn.get(Resource.MONEY, Decimal(0))
        assert open_and_undrawn <= sum(held, Decimal(0)), (recorded.seq, where, open_and_undrawn, held)


def calls_of(log: list[Recorded]) -> dict[str, Calls]:
    machines: dict[str, Calls] = {}
    for recorded in log:
        who = recorded.envelope.address.id
        if who in {HUB, SHOP}:
            continue
        machines[who] = evolve_calls(machines.get(who, Calls()), recorded.event)
    return machines


def check_drawn(log: list[Recorded], shop: Account) -> None:
    """What the project has used is what its machines' calls have cost, with what a correction left them to use."""
    machines = calls_of(log).values()
    spent = sum((each.spent.get(Resource.MONEY, Decimal(0)) for each in machines), Decimal(0))
    left = sum((each.undrawn.get(Resource.MONEY, Decimal(0)) for each in machines), Decimal(0))
    (used,) = (book.used for (resource, _), book in shop.books.items() if resource is Resource.MONEY)
    assert used == spent - left


def check_bill(log: list[Recorded], provider: Provider) -> None:
    reserved = Counter(each.event.call_id for each in log if isinstance(each.event, CallReserved))
    settled = {each.event.call_id: each.event for each in log if isinstance(each.event, CallSettled)}
    ends = Counter(each.event.call_id for each in log if isinstance(each.event, CallSettled | CallVoided))
    assert set(reserved.values()) <= {1}
    assert all(ends[call_id] == 1 for call_id in reserved), "each reservation is resolved exactly once"
    corrected = {each.event.call_id: each.event.cost_cad for each in log if isinstance(each.event, CallCorrected)}
    for call_id, cost in provider.bill.items():
        counted = corrected.get(call_id, settled[call_id].cost_cad)
        assert counted >= cost, "spend is never lost"
        assert counted == cost or call_id not in provider.told, "and never counted twice"
    assert all(
        settled[call_id].cost_cad == 0 or settled[call_id].estimated for call_id in provider.voided & set(settled)
    )


@pytest.mark.timeout(180)
async def test_many_calls_at_once_overrun_nothing_whoever_is_killed(
    client: Client, nats_server: EmbeddedNats, bus_settings: BusSettings
) -> None:
    chance, provider, ledger = random.Random(SEED), Provider(), LedgerClient(client.bus.wire)
    async with AsyncExitStack() as exits:
        budget = await exits.enter_async_context(AsyncExitStack())

        async def start() -> None:
            await budget.enter_async_context(budget_process(bus_settings.nats_url, ledger, **SETTINGS))

        await start()
        expected = CALLS * TOKENS_MAX * MILLIONTH / 4
        await client.set_budget(HUB, money("1000"))
        await client.set_budget(SHOP, money(f"{expected * Decimal('0.8'):.6f}"))
        await eventually(client.idle, timeout_s=PROCESS_S)
        share = f"{expected / MACHINES / 2:.6f}"
        started = [await Caller.start(client, share if number % 2 else None) for number in range(MACHINES)]
        callers = [replace(caller, ledger=ledger) for caller in started]  # as patient as the gateway, and no more

        async def machine(caller: Caller, own: random.Random) -> None:
            for _ in range(CALLS // (MACHINES * AT_ONCE_OF_A_MACHINE)):
                await one_call(caller, provider, own)

        async def killer() -> None:
            for number in range(1, KILLS + 1):
                await eventually(lambda n=number: provider.calls >= CALLS * n // (KILLS + 1), timeout_s=INSIST_S)
                if number % 2:
                    nats_server.kill()
                    await nats_server.ended()
                    await nats_server.start()
                await budget.aclose()
                await start()

        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(killer())
            for caller in callers:
                for _ in range(AT_ONCE_OF_A_MACHINE):
                    tasks.create_task(machine(caller, random.Random(chance.random())))

        async def at_rest() -> bool:
            machines = calls_of(await client.all(f"av.{SHOP}.budget.>")).values()
            return not any(each.open or each.undrawn.get(Resource.MONEY, 0) > 0 for each in machines)

        await eventually(at_rest, timeout_s=PROCESS_S)
        log = await client.all("av.*.budget.>")
    check_bill(log, provider)
    check_every_prefix(log)
    check_drawn(log, await client.account(SHOP))
    granted = sum(isinstance(each.event, CallReserved) for each in log)
    assert granted > CALLS // 4
    assert provider.calls >= CALLS * 9 // 10
