"""Model calls through the real service and log: set aside, settled, waited for, refused, parked and let in again."""

import asyncio
from decimal import Decimal

import pytest

from domain.budget import Machine, machine
from domain.budget.machine import Standing
from events import address, fresh
from events.budget import BudgetDrawn, BudgetExtended, BudgetTopUpRequested
from events.call import CallCorrected, CallRefused, CallReserved, CallSettled, CallVoided
from events.ids import HUB
from events.ledger import Call, Granted, NotGranted, Renew
from events.machine import MachineAdmitted, MachineHeld, MachineResumed
from events.words import Hold, HoldMode, OnExhausted, Resource, Unit
from services.kit.ledger import LedgerRefused
from tests.budget.calling import Caller, money, settings
from tests.budget.conftest import Client, Instances
from tests.budget.world import SHOP
from tests.harness import eventually

MILLION = 1_000_000


@pytest.fixture
async def caller(client: Client, instances: Instances) -> Caller:
    await instances.start(settings())
    await client.set_budget(HUB, money("100"))
    await client.set_budget(SHOP, money("10"))
    await eventually(client.idle)
    return await Caller.start(client)


async def test_a_call_is_durable_before_it_is_granted_and_costs_what_it_used(caller: Caller, client: Client) -> None:
    granted = await caller.granted(MILLION // 2)
    assert granted.held_cad == Decimal("0.5")
    own = address.budget(SHOP, caller.machine_id)
    assert [event.call_id for event in await client.of(CallReserved, own)] == [granted.call_id]
    settled = await caller.settle(granted.call_id, 1_000)
    assert settled.cost_cad == settled.spent_cad == Decimal("0.001")
    assert [event.cost_cad for event in await client.of(CallSettled, own)] == [Decimal("0.001")]


async def test_asking_again_changes_nothing(caller: Caller, client: Client) -> None:
    ask = caller.ask(1_000)
    first, again = await caller.ledger.reserve(ask), await caller.ledger.reserve(ask)
    assert first == again
    usage = caller.usage(ask.call_id, 500)
    assert await caller.ledger.settle(usage) == await caller.ledger.settle(usage)
    late = await caller.ledger.reserve(ask)
    assert isinstance(late, NotGranted)
    assert late.code == "cancelled"
    own = address.budget(SHOP, caller.machine_id)
    assert len(await client.of(CallReserved, own)) == len(await client.of(CallSettled, own)) == 1


async def test_what_calls_used_is_drawn_on_project_and_hub_within_moments(caller: Caller, client: Client) -> None:
    granted = await caller.granted(1_000)
    await caller.settle(granted.call_id, 1_000)

    async def drawn() -> bool:
        found = [await client.of(BudgetDrawn, address.budget(slug, node)) for slug, node in ((HUB, HUB), (SHOP, SHOP))]
        return all(events and events[0].lines[0].amount == Decimal("0.001") for events in found)

    await eventually(drawn)
    shop = await client.account(SHOP)
    book = next(book for (resource, _), book in shop.books.items() if resource is Resource.MONEY)
    assert (book.used, book.reserved) == (Decimal("0.001"), Decimal("0.999"))


async def test_what_a_budget_that_died_had_not_drawn_is_drawn_by_the_next_one_though_nobody_calls(
    client: Client, instances: Instances
) -> None:
    first = await instances.start(settings(draw_s=60))
    await client.set_budget(HUB, money("100"))
    await client.set_budget(SHOP, money("10"))
    await eventually(client.idle)
    caller = await Caller.start(client)
    granted = await caller.granted(1_000)
    await caller.settle(granted.call_id, 1_000)
    await instances.kill(first)
    assert not await client.of(BudgetDrawn, address.budget(SHOP, SHOP))
    await instances.start(settings())

    async def drawn() -> list[BudgetDrawn]:
        return await client.of(BudgetDrawn, address.budget(HUB, HUB))

    assert {
        line.amount for event in await eventually(drawn) for line in event.lines if line.resource is Resource.MONEY
    } == {Decimal("0.001")}


async def test_a_call_that_came_to_nothing_gives_all_of_its_hold_back(caller: Caller, client: Client) -> None:
    granted = await caller.granted(MILLION)
    await caller.void(granted.call_id)
    await caller.granted(MILLION)
    assert len(await client.of(CallVoided, address.budget(SHOP, caller.machine_id))) == 1


async def test_thirty_calls_at_once_get_only_what_there_is(caller: Caller) -> None:
    answers = await asyncio.gather(*(caller.reserve(MILLION // 10) for _ in range(30)))
    assert sum(isinstance(answer, Granted) for answer in answers) == 10


async def test_a_call_waits_for_others_of_its_machine_and_is_granted_when_they_settle(caller: Caller) -> None:
    first = await caller.granted(MILLION)
    waiting = asyncio.create_task(caller.reserve(MILLION // 2, wait_s=20))
    await asyncio.wait({waiting}, timeout=0.3)
    assert not waiting.done()
    await caller.settle(first.call_id, 1_000)
    assert isinstance(await waiting, Granted)


async def test_calls_that_wait_for_other_machines_go_by_greediness_and_nobody_who_comes_later_overtakes(
    client: Client, instances: Instances
) -> None:
    await instances.start(settings())
    await client.set_budget(SHOP, money("3"))
    await eventually(client.idle)
    holder = await Caller.start(client, "2.5")
    modest, greedy, late = [await Caller.start(client, None, greed) for greed in ("0.2", "0.9", "0.1")]
    waits = [asyncio.create_task(each.reserve(MILLION, wait_s=30)) for each in (modest, greedy)]
    await asyncio.wait(waits, timeout=0.3)
    waits.append(asyncio.create_task(late.reserve(300_000, wait_s=30)))
    await asyncio.wait(waits, timeout=0.3)
    assert not any(each.done() for each in waits), "there is room for the small one, yet it is not its turn"
    await client.end(holder.machine_id, cost="1.5")
    assert isinstance(await waits[1], Granted)
    await asyncio.wait((waits[0], waits[2]), timeout=0.3)
    assert not waits[0].done()
    assert not waits[2].done()
    await client.set_budget(SHOP, money("4"))
    assert isinstance(await waits[0], Granted)
    assert isinstance(await waits[2], Granted)


async def test_who_gives_up_waiting_makes_way_for_who_stood_behind(client: Client, instances: Instances) -> None:
    await instances.start(settings())
    await client.set_budget(SHOP, money("3"))
    await eventually(client.idle)
    await Caller.start(client, "2.5")
    first, second = [await Caller.start(client, None) for _ in range(2)]
    large = first.ask(MILLION, wait_s=30)
    waiting = asyncio.create_task(first.ledger.reserve(large))
    await asyncio.wait({waiting}, timeout=0.3)
    behind = asyncio.create_task(second.reserve(300_000, wait_s=30))
    await asyncio.wait({behind}, timeout=0.3)
    assert not behind.done()
    await first.void(large.call_id)
    assert isinstance(await behind, Granted)
    assert isinstance(await waiting, NotGranted)


async def test_where_use_is_to_be_waited_out_a_call_is_held_until_there_is_more(
    client: Client, instances: Instances
) -> None:
    await instances.start(settings())
    held = money("1").model_copy(update={"on_exhausted": OnExhausted.HOLD})
    await client.set_budget(SHOP, held)
    await eventually(client.idle)
    caller = await Caller.start(client, None)
    first = await caller.granted(MILLION)
    await caller.settle(first.call_id, MILLION)
    waiting = asyncio.create_task(caller.reserve(MILLION // 2, wait_s=30))
    await asyncio.wait({waiting}, timeout=0.3)
    assert not waiting.done()
    assert await client.machine(MachineHeld, caller.machine_id) is None
    await client.set_budget(SHOP, held.model_copy(update={"amount": Decimal(2)}))
    second = await waiting
    assert isinstance(second, Granted)
    await caller.settle(second.call_id, MILLION // 2)
    answer = await caller.reserve(MILLION, wait_s=0.3)
    assert isinstance(answer, NotGranted)
    assert (answer.code, answer.action) == ("exhausted", OnExhausted.PARK), "who waited for nothing parks"


async def test_one_that_is_given_up_while_it_waits_is_never_granted(caller: Caller, client: Client) -> None:
    await caller.granted(MILLION)
    ask = caller.ask(MILLION // 2, wait_s=20)
    waiting = asyncio.create_task(caller.ledger.reserve(ask))
    await asyncio.wait({waiting}, timeout=0.3)
    await caller.void(ask.call_id)
    answer = await waiting
    assert isinstance(answer, NotGranted)
    assert answer.code == "cancelled"
    reserved = await client.of(CallReserved, address.budget(SHOP, caller.machine_id))
    assert ask.call_id not in {event.call_id for event in reserved}


async def test_a_clamped_call_is_granted_with_what_can_be_afforded(caller: Caller) -> None:
    first = await caller.granted(MILLION)
    await caller.settle(first.call_id, 900_000)
    answer = await caller.reserve(160_000, mode=HoldMode.CLAMPED)
    assert isinstance(answer, Granted)
    assert 4_096 <= answer.output_tokens_max < 80_000
    assert answer.held_cad <= Decimal("0.1")


async def test_use_in_the_way_parks_the_machine_with_a_word_on_what_to_type(caller: Caller, client: Client) -> None:
    first = await caller.granted(MILLION)
    await caller.settle(first.call_id, MILLION)
    answer = await caller.reserve(1_000, wait_s=20)
    assert isinstance(answer, NotGranted)
    assert (answer.code, answer.action, answer.node) == ("exhausted", OnExhausted.PARK, str(caller.machine_id))
    assert f"autovibe budget top-up {SHOP} 1CAD --machine {caller.machine_id}" in answer.message
    held = await client.machine(MachineHeld, caller.machine_id)
    assert held is not None
    assert held.hold is Hold.BUDGET
    await caller.reserve(1_000)
    assert len(await client.of(CallRefused, address.budget(SHOP, caller.machine_id))) == 1


async def test_a_top_up_lets_a_parked_machine_in_again_and_its_next_epoch_calls(caller: Caller, client: Client) -> None:
    first = await caller.granted(MILLION)
    await caller.settle(first.call_id, MILLION)
    await caller.reserve(10_000)
    await caller.park()

    async def settled() -> bool:
        return await caller.free(SHOP) == Decimal(9)

    await eventually(settled)
    topped = BudgetTopUpRequested(resource=Resource.MONEY, amount=Decimal("0.5"), unit=Unit.CAD)
    await client.say(address.budget(SHOP, caller.machine_id), topped)
    where = address.machine(SHOP, caller.machine_id)

    async def admitted_again() -> bool:
        return len(await client.of(MachineAdmitted, where)) == 2

    await eventually(admitted_again)
    assert [event.hold for event in await client.of(MachineResumed, where)] == [Hold.BUDGET]
    await caller.provision(2)
    await caller.granted(MILLION // 2)
    assert await caller.free(SHOP) == Decimal("8.5")


async def test_of_parked_machines_the_greedier_comes_back_first_though_it_parked_last(
    client: Client, instances: Instances
) -> None:
    await instances.start(settings())
    await client.set_budget(SHOP, money("2"))
    await eventually(client.idle)
    modest, greedy = [await Caller.start(client, "1", greed) for greed in ("0.2", "0.9")]
    for caller in (modest, greedy):
        granted = await caller.granted(MILLION)
        await caller.settle(granted.call_id, MILLION)
        await caller.reserve(500_000)
        await caller.park()
        await client.say(
            address.budget(SHOP, caller.machine_id),
            BudgetTopUpRequested(resource=Resource.MONEY, amount=Decimal(1), unit=Unit.CAD),
        )
    await eventually(client.idle)

    async def admissions(caller: Caller) -> int:
        return len(await client.of(MachineAdmitted, address.machine(SHOP, caller.machine_id)))

    assert [await admissions(each) for each in (modest, greedy)] == [1, 1], "the project has nothing left for either"
    await client.set_budget(SHOP, money("3"))

    async def greedy_is_back() -> bool:
        return await admissions(greedy) == 2

    await eventually(greedy_is_back)
    await eventually(client.idle)
    assert await admissions(modest) == 1
    await client.set_budget(SHOP, money("4"))

    async def modest_is_back() -> bool:
        return await admissions(modest) == 2

    await eventually(modest_is_back)


async def test_a_machine_without_a_budget_of_its_own_is_extended_as_it_goes(
    client: Client, instances: Instances
) -> None:
    await instances.start(settings(slice_cad=Decimal(1)))
    await client.set_budget(SHOP, money("3"))
    await eventually(client.idle)
    caller = await Caller.start(client, None)
    await caller.granted(MILLION // 2)
    own = address.budget(SHOP, caller.machine_id)
    assert [event.lines[0].amount for event in await client.of(BudgetExtended, own)] == [Decimal(1)]
    assert await caller.free(SHOP) == Decimal(2)
    await caller.granted(2 * MILLION)
    answer = await caller.reserve(MILLION)
    assert isinstance(answer, NotGranted)
    assert (answer.code, answer.node) == ("waited", str(caller.machine_id)), "its own open calls stand in the way"
    assert await caller.free(SHOP) == Decimal("0.5")


async def test_a_dead_epoch_and_a_model_without_a_price_get_nothing(caller: Caller) -> None:
    await caller.provision(2)
    old = await caller.reserve(1_000, epoch=1)
    assert isinstance(old, NotGranted)
    assert old.code == "fenced"
    unknown = await caller.ledger.reserve(caller.ask(1_000).model_copy(update={"model": "nobody-knows"}))
    assert isinstance(unknown, NotGranted)
    assert unknown.code == "unknown_model"


async def test_settling_what_nobody_reserved_is_refused(caller: Caller) -> None:
    with pytest.raises(LedgerRefused, match="nobody has reserved"):
        await caller.settle(fresh.uuid7(), 1_000)


async def test_a_call_whose_gateway_is_lost_is_settled_with_the_most_it_can_have_used(
    client: Client, instances: Instances
) -> None:
    await instances.start(settings(call_lease_s=0.5))
    await client.set_budget(SHOP, money("3"))
    await eventually(client.idle)
    caller = await Caller.start(client)
    granted = await caller.granted(10_000)

    async def settled() -> list[CallSettled]:
        return await client.of(CallSettled, address.budget(SHOP, caller.machine_id))

    (ended,) = await eventually(settled) or []
    assert (ended.estimated, ended.cost_cad) == (True, Decimal("0.01"))
    lost = await caller.ledger.renew(
        Renew(calls=(Call(call_id=granted.call_id, project=SHOP, machine_id=caller.machine_id, epoch=1),))
    )
    assert lost.lost == (granted.call_id,)
    late = await caller.settle(granted.call_id, 1_000)
    assert late.cost_cad == late.spent_cad == Decimal("0.001"), "its gateway lived, and knows better"
    corrected = await client.of(CallCorrected, address.budget(SHOP, caller.machine_id))
    assert [(event.call_id, event.cost_cad) for event in corrected] == [(granted.call_id, Decimal("0.001"))]
    assert await caller.settle(granted.call_id, 1_000) == late


async def test_a_budget_that_is_killed_between_reserve_and_settle_forgets_nothing(
    client: Client, instances: Instances
) -> None:
    first = await instances.start(settings())
    await client.set_budget(SHOP, money("3"))
    await eventually(client.idle)
    caller = await Caller.start(client)
    granted = await caller.granted(MILLION // 2)
    await instances.kill(first)
    await instances.start(settings())
    assert (await caller.settle(granted.call_id, 1_000)).cost_cad == Decimal("0.001")
    await caller.granted(900_000)


async def test_a_machine_that_ends_with_an_open_call_keeps_its_hold_until_that_is_settled(
    caller: Caller, client: Client
) -> None:
    granted = await caller.granted(MILLION)
    await client.end(caller.machine_id)
    state = Machine()
    for event in await client.events(address.machine(SHOP, caller.machine_id)):
        state = machine.evolve(state, event)
    assert state.standing is Standing.OVER
    assert await caller.free(SHOP) == Decimal(9)
    await caller.settle(granted.call_id, 2_000)

    async def resolved() -> bool:
        return await caller.free(SHOP) == Decimal("9.998")

    await eventually(resolved)
