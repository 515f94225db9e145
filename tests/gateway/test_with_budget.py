"""The gateway with the real budget behind it: what the provider bills, what is settled and what is drawn are the same."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from decimal import Decimal

import pytest

from cli.stack.nats import EmbeddedNats
from events import address
from events.call import CallReserved, CallSettled, CallVoided
from events.fresh import uuid7
from events.ids import HUB
from events.machine import MachineAdmitted, MachineHeld
from events.words import Hold
from services.kit.bus import Bus
from services.kit.ledger import LedgerClient
from services.kit.settings import BusSettings
from tests.budget.calling import ai_request, money, settings
from tests.budget.conftest import Client, Instances
from tests.budget.world import SHOP
from tests.gateway.provider import anthropic_events, provider, saying, streaming
from tests.gateway.world import STREAM, Machine, World, a_world
from tests.harness import eventually

pytestmark = pytest.mark.timeout(90)
ASK = {**STREAM, "model": "rehearsal-sonnet", "max_tokens": 5_000}
BILLED = Decimal("0.001145")
"""25 + 100 + 1000 tokens in, 20 out, a millionth CAD each."""


@asynccontextmanager
async def budgeted(bus: Bus, server: EmbeddedNats) -> AsyncGenerator[tuple[Client, Instances]]:
    client, instances = Client(bus), Instances(BusSettings(nats_url=server.url))
    try:
        yield client, instances
    finally:
        await instances.stop_all()


async def admitted(world: World, client: Client, cad: str) -> Machine:
    who = await client.ask(ai_request(cad))
    await client.hears(MachineAdmitted, who)
    machine = Machine(who, "", uuid7(), 0)
    await world.next_epoch(machine)
    return machine


def upstream(url: str) -> dict[str, object]:
    return {"name": "model", "protocol": "anthropic", "base_url": url, "price_provider": "rehearsal"}


async def test_three_ledgers_are_equal_to_the_last_place(bus: Bus, nats_server: EmbeddedNats) -> None:
    """The provider's own bill, the settled events, and what is drawn on the project."""
    failing = saying(500, {"error": {}})
    script = [streaming(*anthropic_events()), failing, streaming(*anthropic_events()), failing]
    async with (
        budgeted(bus, nats_server) as (client, instances),
        provider(*script, streaming(*anthropic_events())) as model,
        a_world(bus, ledger=LedgerClient(bus.wire), gateway_upstreams=(upstream(model.url),)) as world,
    ):
        await instances.start(settings())
        await client.set_budget(HUB, money("100"))
        await client.set_budget(SHOP, money("10"))
        machine = await admitted(world, client, "1")
        answers = await asyncio.gather(*(world.said(machine, ASK) for _ in range(12)))
        billed = BILLED * sum(status == 200 for status, _ in answers)
        assert sorted({status for status, _ in answers}) == [200, 500]
        own = address.budget(SHOP, machine.machine_id)

        async def equal() -> bool:
            settled = sum((each.cost_cad for each in await client.of(CallSettled, own)), Decimal(0))
            books = (await client.account(SHOP)).books
            drawn = next(book.used for (resource, _), book in books.items() if resource.value == "money")
            return settled == drawn == billed

        await eventually(equal)
        resolved = len(await client.of(CallSettled, own)) + len(await client.of(CallVoided, own))
        assert len(await client.of(CallReserved, own)) == resolved == 12


async def test_a_budget_that_is_killed_amid_a_call_loses_none_of_it(bus: Bus, nats_server: EmbeddedNats) -> None:
    gate = asyncio.Event()
    slow = streaming(*anthropic_events(), gate=gate, gate_after=3)
    async with (
        budgeted(bus, nats_server) as (client, instances),
        provider(slow) as model,
        a_world(bus, ledger=LedgerClient(bus.wire, timeout_s=1), gateway_upstreams=(upstream(model.url),)) as world,
    ):
        first = await instances.start(settings())
        await client.set_budget(SHOP, money("10"))
        machine = await admitted(world, client, "1")
        own = address.budget(SHOP, machine.machine_id)
        asking = asyncio.create_task(world.said(machine, ASK))
        await eventually(lambda: len(model.heard) == 1)
        assert len(await client.of(CallReserved, own)) == 1
        await instances.kill(first)
        gate.set()
        assert (await asking)[0] == 200
        await instances.start(settings())

        async def settled() -> bool:
            found = await client.of(CallSettled, own)
            return [(each.cost_cad, each.estimated) for each in found] == [(BILLED, False)]

        await eventually(settled)


async def test_a_stream_that_is_longer_than_a_lease_stays_reserved(bus: Bus, nats_server: EmbeddedNats) -> None:
    gate, lease_s = asyncio.Event(), 0.6
    slow = streaming(*anthropic_events(), gate=gate, gate_after=3)
    async with (
        budgeted(bus, nats_server) as (client, instances),
        provider(slow) as model,
        a_world(bus, ledger=LedgerClient(bus.wire), gateway_upstreams=(upstream(model.url),)) as world,
    ):
        await instances.start(settings(call_lease_s=lease_s))
        await client.set_budget(SHOP, money("10"))
        machine = await admitted(world, client, "1")
        own = address.budget(SHOP, machine.machine_id)
        asking = asyncio.create_task(world.said(machine, ASK))
        await eventually(lambda: len(model.heard) == 1)
        await asyncio.wait({asking}, timeout=5 * lease_s)
        assert not await client.of(CallSettled, own)
        gate.set()
        assert (await asking)[0] == 200

        async def settled() -> bool:
            return [(each.cost_cad, each.estimated) for each in await client.of(CallSettled, own)] == [(BILLED, False)]

        await eventually(settled)


async def test_a_machine_without_budget_parks_and_is_told_why(bus: Bus, nats_server: EmbeddedNats) -> None:
    async with (
        budgeted(bus, nats_server) as (client, instances),
        provider() as model,
        a_world(bus, ledger=LedgerClient(bus.wire), gateway_upstreams=(upstream(model.url),)) as world,
    ):
        await instances.start(settings())
        await client.set_budget(SHOP, money("10"))
        machine = await admitted(world, client, "0.000100")
        async with world.asked(machine, {**ASK, "max_tokens": 5_000}) as response:
            assert (response.status, response.headers["x-should-retry"]) == (400, "false")
            error = (await response.json())["error"]
        assert error["type"] == "billing_error"
        assert "top-up" in error["message"]
        held = await client.of(MachineHeld, address.machine(SHOP, machine.machine_id))
        assert [one.hold for one in held] == [Hold.BUDGET]
        assert not model.heard
