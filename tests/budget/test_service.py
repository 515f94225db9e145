"""The budget on a real server: what it says to what it hears."""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from datetime import timedelta
from decimal import Decimal
from uuid import UUID

import pytest

from domain.budget import balances
from domain.phases import QUEUE_S
from events import address, fresh
from events.budget import BudgetAllocated, BudgetSettled
from events.call import PriceTableLoaded
from events.envelope import Cause, Recorded
from events.ids import HUB
from events.machine import (
    MachineAdmitted,
    MachineDenied,
    MachineEnded,
    MachineQueued,
    MachineStopRequested,
)
from events.timer import TimerFired
from events.words import BudgetPeriod, Hold, Outcome, Resource
from services.budget.app import BudgetSettings
from services.budget.ledger import Ledger
from services.kit.errors import LogFull
from services.kit.log import Log, Write
from tests.budget.conftest import FREE, Client, Instances
from tests.budget.world import NOW, SHOP, request, wanted
from tests.harness import eventually

ONE = BudgetSettings.model_validate({**FREE.model_dump(), "machines_max": 1})


async def test_a_request_is_admitted_and_held_on_three_accounts_in_one_batch(
    client: Client, instances: Instances
) -> None:
    await instances.start()
    who = await client.ask(request("1.5"))
    admitted = await client.hears(MachineAdmitted, who)
    assert admitted.held[Resource.MONEY] == Decimal("1.5")
    said = await client.all("av.*.machine.*.MachineAdmitted", "av.*.budget.*.*")
    batch = [recorded for recorded in said if not isinstance(recorded.event, PriceTableLoaded)]
    seqs = [recorded.seq for recorded in batch]
    assert seqs == list(range(seqs[0], seqs[0] + len(seqs)))
    assert {str(recorded.envelope.address) for recorded in batch} == {
        f"{SHOP}/machine/{who}",
        f"{HUB}/budget/{HUB}",
        f"{SHOP}/budget/{SHOP}",
        f"{SHOP}/budget/{who}",
    }
    assert {recorded.envelope.cause.actor for recorded in batch} == {"budget"}


async def test_the_whole_life_of_a_budget(client: Client, instances: Instances) -> None:
    await instances.start()
    await client.set_budget(SHOP, wanted("5"))
    await eventually(lambda: client.of(BudgetAllocated, address.budget(SHOP, SHOP)))
    first = await client.ask(request("4"))
    second = await client.ask(request("3"))
    queued = await client.hears(MachineQueued, second)
    assert (queued.hold, queued.node, queued.available) == (Hold.BUDGET, SHOP, Decimal(1))
    await client.end(first, cost="1.25")
    await client.hears(MachineAdmitted, second)
    await client.end(second, cost="3")
    await eventually(lambda: client.of(BudgetSettled, address.budget(SHOP, second)))
    balance = balances(await client.account(SHOP))[Resource.MONEY]
    assert (balance.allocated, balance.used, balance.reserved) == (5, Decimal("4.25"), 0)
    third = await client.ask(request("3"))
    denied = await client.hears(MachineDenied, third)
    assert denied.reason == "asked 3 CAD, webshop has 0.75 CAD not yet used of 5 CAD (total)"


async def test_a_top_up_lets_the_next_request_in(client: Client, instances: Instances) -> None:
    await instances.start()
    await client.set_budget(SHOP, wanted("1"))
    await client.set_budget(SHOP, wanted("2"))
    who = await client.ask(request("2"))
    await client.hears(MachineAdmitted, who)


async def test_a_top_up_admits_who_waits(client: Client, instances: Instances) -> None:
    await instances.start()
    await client.set_budget(SHOP, wanted("2"))
    await client.ask(request("2"))
    who = await client.ask(request("2"))
    await client.hears(MachineQueued, who)
    await client.set_budget(SHOP, wanted("4"))
    await client.hears(MachineAdmitted, who)


async def test_stopping_who_waits_ends_it_and_lets_the_next_one_pass(client: Client, instances: Instances) -> None:
    await instances.start()
    await client.set_budget(SHOP, wanted("5"))
    await client.ask(request("3"))
    large = await client.ask(request("4"))
    await client.hears(MachineQueued, large)
    small = await client.ask(request("1"))
    await client.hears(MachineQueued, small)
    await client.say(address.machine(SHOP, large), MachineStopRequested(reason="no longer wanted"))
    ended = await client.hears(MachineEnded, large)
    assert (ended.outcome, ended.epoch) == (Outcome.CANCELLED, 0)
    await client.hears(MachineAdmitted, small)


async def test_a_small_request_right_after_a_large_one_does_not_overtake_it(
    client: Client, instances: Instances, monkeypatch: pytest.MonkeyPatch
) -> None:
    follow = Log.follow

    async def follow_late(
        log: Log, after: int = 0, filters: Sequence[str] = (), *, stop_at_end: bool = False
    ) -> AsyncGenerator[list[Recorded]]:
        async for batch in follow(log, after, filters, stop_at_end=stop_at_end):
            await asyncio.sleep(0.2)
            yield batch

    monkeypatch.setattr(Log, "follow", follow_late)
    await instances.start()
    await client.set_budget(SHOP, wanted("5"))
    await client.ask(request("4"))
    large, small = fresh.uuid7(), fresh.uuid7()
    await client.bus.log.append(
        Write(address.machine(SHOP, large), 0, (request("5"),)),
        Write(address.machine(SHOP, small), 0, (request("1"),)),
        cause=Cause("test"),
    )
    await client.hears(MachineQueued, large)
    assert (await client.hears(MachineQueued, small)).node == SHOP


async def test_of_projects_that_have_as_much_the_one_that_was_not_served_for_longest_is_next(
    client: Client, instances: Instances
) -> None:
    await instances.start(ONE)
    running = await client.ask(request())
    await client.hears(MachineAdmitted, running)
    waiting = [(await client.ask(request(), slug), slug) for slug in ("bakery", SHOP, "bakery", "florist")]
    for who, slug in waiting:
        await client.hears(MachineQueued, who, slug)
    await client.end(running)
    order: list[UUID] = []
    for who, slug in (waiting[0], waiting[1], waiting[3], waiting[2]):
        await client.hears(MachineAdmitted, who, slug)
        await client.end(who, slug=slug)
        order.append(who)
    admitted = await client.all("av.*.machine.*.MachineAdmitted")
    assert [recorded.envelope.address.id for recorded in admitted] == [str(who) for who in (running, *order)]


async def test_who_waits_for_a_day_expires(client: Client, instances: Instances) -> None:
    await instances.start(BudgetSettings.model_validate({**FREE.model_dump(), "machines_max": 0}))
    who = await client.ask(request())
    await client.hears(MachineQueued, who)
    requested = (await client.bus.log.load(address.machine(SHOP, who))).events[0]
    scheduled = await eventually(lambda: client.bus.js.get_last_msg("TIMERS", "avt.sched.*"))
    timer = TimerFired.model_validate_json(scheduled.data or b"")
    assert timer.due_at - requested.recorded_at == timedelta(seconds=QUEUE_S)
    await client.say(
        address.Address(HUB, "timer", scheduled.subject.rpartition(".")[2] if scheduled.subject else ""), timer
    )
    ended = await client.hears(MachineEnded, who)
    assert ended.outcome is Outcome.EXPIRED


async def test_who_waited_through_a_restart_is_admitted_when_there_is_room(
    client: Client, instances: Instances
) -> None:
    budget = await instances.start(ONE)
    first = await client.ask(request())
    second = await client.ask(request())
    await client.hears(MachineQueued, second)
    await instances.stop(budget)
    await client.end(first)
    await instances.start(ONE)
    await client.hears(MachineAdmitted, second)


async def test_more_capacity_after_a_restart_is_used_though_nothing_else_happens(
    client: Client, instances: Instances
) -> None:
    budget = await instances.start(ONE)
    await client.ask(request())
    second = await client.ask(request())
    await client.hears(MachineQueued, second)
    await instances.stop(budget)
    await instances.start()
    await client.hears(MachineAdmitted, second)


async def test_it_is_well_and_says_how_many_wait(client: Client, instances: Instances) -> None:
    budget = await instances.start(ONE)
    await client.ask(request())
    await client.ask(request())
    await eventually(client.idle)
    health = await budget.health()
    assert health.ok
    assert health.parts[0].detail == "1 machines queued"


async def test_who_waits_for_a_new_day_is_admitted_when_it_begins_though_nothing_is_said(
    client: Client, instances: Instances
) -> None:
    clock = [NOW]
    await instances.start(BudgetSettings.model_validate({**FREE.model_dump(), "queue_look_s": 0.05}), lambda: clock[0])
    await client.set_budget(SHOP, wanted("5", period=BudgetPeriod.DAILY))
    await client.ask(request("5"))
    second = await client.ask(request("5"))
    await client.hears(MachineQueued, second)
    clock[0] += timedelta(days=1)
    await client.hears(MachineAdmitted, second)


async def test_a_deadline_that_was_lost_is_set_again_at_the_next_start(client: Client, instances: Instances) -> None:
    budget = await instances.start(ONE)
    await client.ask(request())
    second = await client.ask(request())
    await client.hears(MachineQueued, second)
    await eventually(client.idle)
    await instances.stop(budget)
    await client.bus.js.purge_stream("TIMERS")
    await instances.start(ONE)
    timer = await client.bus.js.get_last_msg("TIMERS", "avt.sched.*")
    assert TimerFired.model_validate_json(timer.data or b"").subject_id == str(second)


async def test_a_machine_whose_id_is_no_uuid_is_buried_and_the_next_is_answered(
    client: Client, instances: Instances
) -> None:
    await instances.start()
    await client.say(address.machine(SHOP, "not-a-uuid"), request())
    await client.hears(MachineAdmitted, await client.ask(request()))
    letter = await eventually(lambda: client.bus.js.stream_info("DEAD"))
    assert letter.state.messages == 1


async def test_a_timer_of_another_service_is_none_of_its_affair(client: Client, instances: Instances) -> None:
    await instances.start(ONE)
    await client.ask(request())
    second = await client.ask(request())
    await client.hears(MachineQueued, second)
    timer = TimerFired(
        owner="spawner",
        project=SHOP,
        subject_aggregate="machine",
        subject_id=str(second),
        purpose="queued",
        due_at=NOW,
    )
    await client.say(address.Address(HUB, "timer", "due"), timer)
    await eventually(client.idle)
    assert await client.machine(MachineEnded, second) is None


async def test_a_full_log_postpones_the_answer(
    client: Client, instances: Instances, monkeypatch: pytest.MonkeyPatch
) -> None:
    append, refused = Ledger.carry_out, [True]

    async def full_once(ledger: Ledger, *arguments: object) -> object:
        if refused and refused.pop():
            raise LogFull("maximum bytes exceeded")
        return await append(ledger, *arguments)  # pyright: ignore[reportArgumentType] # handed on as they are

    monkeypatch.setattr(Ledger, "carry_out", full_once)
    monkeypatch.setattr("services.budget.desk.LOG_FULL_DELAY_S", 0.05)
    await instances.start()
    await client.hears(MachineAdmitted, await client.ask(request()))


async def test_a_project_cannot_have_more_machines_wait_than_it_may(client: Client, instances: Instances) -> None:
    few = {**FREE.model_dump(), "machines_max": 1, "queued_max": 2}
    await instances.start(BudgetSettings.model_validate(few))
    running = await client.ask(request())
    waiting = [await client.ask(request()) for _ in range(2)]
    for who in waiting:
        await client.hears(MachineQueued, who)
    refused = await client.hears(MachineEnded, await client.ask(request()))
    assert (refused.outcome, refused.epoch) == (Outcome.DENIED, 0)
    await client.hears(MachineQueued, await client.ask(request(), "bakery"), "bakery")
    await client.end(running)
    await client.hears(MachineAdmitted, waiting[0])
    await eventually(client.idle)
    await client.hears(MachineQueued, await client.ask(request()))
