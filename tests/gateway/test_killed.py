"""The gateway killed with -9 amid a call: after a restart no call is open, and no less is counted than was billed."""

import asyncio
import json
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import aiohttp
import pytest
from nats.aio.msg import Msg

from cli.stack.nats import EmbeddedNats, NatsConfig
from events import address
from events.call import CallReserved, CallSettled
from events.ledger import SUBJECTS, Reserve
from services.kit import topology
from services.kit.bus import Bus
from services.kit.ledger import LedgerClient
from services.kit.settings import BusSettings
from tests.budget.calling import budget_process, money, settings
from tests.budget.world import SHOP
from tests.gateway.provider import anthropic_events, provider, streaming
from tests.gateway.test_boundary import RESULTS, agent
from tests.gateway.test_with_budget import ASK, BILLED, admitted, budgeted, upstream
from tests.gateway.world import MESSAGES, Machine, a_world
from tests.harness import eventually, free_port, short_directory
from tests.harness.services import listens, service_process

pytestmark = pytest.mark.timeout(120)
ROOT = Path(__file__).resolve().parents[2]
LEASE_S = 4.0
START_S = 40.0
EVENTS = anthropic_events()
AFTER_A_TOOL = {**ASK, "messages": [{"role": "user", "content": "hi"}, RESULTS]}


def gateway_process(
    nats_url: str, model_url: str, port: int, *, checkpoint_s: float = 0.1
) -> AbstractAsyncContextManager[asyncio.subprocess.Process]:
    return service_process(
        "gateway",
        nats_url,
        lambda: listens(port),
        gateway_port=str(port),
        gateway_upstreams=json.dumps([upstream(model_url)]),
        gateway_checkpoint_s=str(checkpoint_s),
    )


async def said(session: aiohttp.ClientSession, port: int, machine: Machine, body: object = ASK) -> int:
    """Ask, and read all of the answer. Returns its status; 0 where the gateway has gone."""
    headers = {"authorization": f"Bearer {machine.token}"}
    try:
        async with session.post(f"http://127.0.0.1:{port}{MESSAGES}", json=body, headers=headers) as response:
            await response.read()
            return response.status
    except aiohttp.ClientError:
        return 0


@pytest.mark.parametrize(
    "sent", [0, 1, len(EVENTS)], ids=["before it answers", "amid the stream", "before it is settled"]
)
async def test_a_gateway_killed_amid_a_call_leaves_none_open_and_counts_no_less_than_the_bill(
    bus: Bus, nats_server: EmbeddedNats, sent: int
) -> None:
    gate, port = asyncio.Event(), free_port()
    slow = streaming(*EVENTS, gate=gate, gate_after=sent)
    async with (
        budgeted(bus, nats_server) as (client, instances),
        provider(slow, streaming(*EVENTS)) as model,
        a_world(bus) as world,
    ):
        await instances.start(settings(call_lease_s=LEASE_S))
        await client.set_budget(SHOP, money("10"))
        machine = await admitted(world, client, "1")
        own = address.budget(SHOP, machine.machine_id)

        async def settled(many: int) -> bool:
            return len(await client.of(CallSettled, own)) == many

        async with gateway_process(nats_server.url, model.url, port) as process:
            asking = asyncio.create_task(said(world.session, port, machine))
            await eventually(lambda: len(model.heard) == 1)
            process.kill()
            assert await asking in {0, 200}
        gate.set()
        await eventually(lambda: settled(1), timeout_s=5 * LEASE_S)
        (lost,) = await client.of(CallSettled, own)
        assert lost.estimated
        assert lost.cost_cad >= BILLED
        async with gateway_process(nats_server.url, model.url, port):
            assert await said(world.session, port, machine) == 200
            await eventually(lambda: settled(2))
        last = (await client.of(CallSettled, own))[1]
        assert (last.cost_cad, last.estimated) == (BILLED, False)
        reserved = [one.call_id for one in await client.of(CallReserved, own)]
        assert reserved == [lost.call_id, last.call_id]
        assert len(model.heard) == 2


async def test_a_gateway_killed_while_a_checkpoint_holds_a_call_leaves_nothing_behind(
    bus: Bus, nats_server: EmbeddedNats
) -> None:
    port = free_port()
    async with (
        budgeted(bus, nats_server) as (client, instances),
        provider(streaming(*EVENTS)) as model,
        a_world(bus) as world,
        gateway_process(nats_server.url, model.url, port, checkpoint_s=30) as process,
    ):
        await instances.start(settings(call_lease_s=LEASE_S))
        await client.set_budget(SHOP, money("10"))
        machine = await admitted(world, client, "1")
        async with agent(bus, machine, asyncio.Event()) as captures:
            assert await said(world.session, port, machine) == 200, "the first call of an incarnation is not held"
            asking = asyncio.create_task(said(world.session, port, machine, AFTER_A_TOOL))
            await eventually(lambda: len(captures) == 1)
            process.kill()
            assert await asking == 0
        own = address.budget(SHOP, machine.machine_id)
        assert (len(await client.of(CallReserved, own)), len(model.heard)) == (1, 1)


async def test_a_reservation_that_is_granted_to_a_gateway_that_was_killed_meanwhile_is_resolved(
    bus: Bus, nats_server: EmbeddedNats
) -> None:
    gate, port = asyncio.Event(), free_port()
    slow = streaming(*EVENTS, gate=gate, gate_after=3)
    async with (
        budgeted(bus, nats_server) as (client, instances),
        provider(slow) as model,
        a_world(bus, ledger=LedgerClient(bus.wire), gateway_upstreams=(upstream(model.url),)) as world,
        gateway_process(nats_server.url, model.url, port) as process,
    ):
        await instances.start(settings(call_lease_s=LEASE_S))
        await client.set_budget(SHOP, money("10"))
        machine = await admitted(world, client, "0.0095")  # enough for one at a time
        own = address.budget(SHOP, machine.machine_id)
        asked: list[Msg] = []

        async def hear(message: Msg) -> None:
            asked.append(message)

        await bus.nc.subscribe(SUBJECTS[Reserve], cb=hear)
        await bus.nc.flush()
        first = asyncio.create_task(world.said(machine, ASK))
        await eventually(lambda: len(model.heard) == 1)
        second = asyncio.create_task(said(world.session, port, machine))
        await eventually(lambda: len(asked) == 2)
        process.kill()
        assert await second == 0
        gate.set()
        assert (await first)[0] == 200

        async def resolved() -> bool:
            settled = await client.of(CallSettled, own)
            assert len(settled) == len(await client.of(CallReserved, own)) == 2
            return [each.estimated for each in settled] == [False, True]

        await eventually(resolved, timeout_s=5 * LEASE_S)
        assert len(model.heard) == 1


async def test_a_budget_killed_with_minus_nine_amid_a_call_loses_none_of_it(
    bus: Bus, nats_server: EmbeddedNats
) -> None:
    gate = asyncio.Event()
    slow = streaming(*EVENTS, gate=gate, gate_after=3)
    async with (
        budgeted(bus, nats_server) as (client, _),
        provider(slow) as model,
        a_world(bus, ledger=LedgerClient(bus.wire, timeout_s=1), gateway_upstreams=(upstream(model.url),)) as world,
    ):
        async with budget_process(nats_server.url, LedgerClient(bus.wire, timeout_s=1)) as process:
            await client.set_budget(SHOP, money("10"))
            machine = await admitted(world, client, "1")
            own = address.budget(SHOP, machine.machine_id)
            asking = asyncio.create_task(world.said(machine, ASK))
            await eventually(lambda: len(model.heard) == 1)
            assert len(await client.of(CallReserved, own)) == 1
            process.kill()
            await process.wait()
        gate.set()
        assert (await asking)[0] == 200, "what the provider sends reaches the client without the budget"
        assert (await world.said(machine, ASK))[0] == 503, "and nothing new is forwarded"
        assert len(model.heard) == 1

        async def settled() -> bool:
            found = await client.of(CallSettled, own)
            return [(one.cost_cad, one.estimated) for one in found] == [(BILLED, False)]

        async with budget_process(nats_server.url, LedgerClient(bus.wire, timeout_s=1)):
            await eventually(settled, timeout_s=START_S)
            assert len(await client.of(CallReserved, own)) == 1, "the one that got no answer was never granted"


async def test_a_log_that_is_killed_amid_a_call_loses_none_of_it() -> None:
    gate = asyncio.Event()
    slow = streaming(*EVENTS, gate=gate, gate_after=3)
    with short_directory() as directory:
        async with (
            EmbeddedNats(directory, NatsConfig(port=free_port())) as server,
            Bus.connect(BusSettings(nats_url=server.url), name="test") as bus,
        ):
            await topology.apply(bus)
            async with (
                budgeted(bus, server) as (client, instances),
                provider(slow) as model,
                a_world(
                    bus, ledger=LedgerClient(bus.wire, timeout_s=1), gateway_upstreams=(upstream(model.url),)
                ) as world,
            ):
                await instances.start(settings())
                await client.set_budget(SHOP, money("10"))
                machine = await admitted(world, client, "1")
                own = address.budget(SHOP, machine.machine_id)
                asking = asyncio.create_task(world.said(machine, ASK))
                await eventually(lambda: len(model.heard) == 1)
                server.kill()
                await server.ended()
                gate.set()
                assert (await asking)[0] == 200, "what the provider sends reaches the client without the log"
                await server.start()
                await eventually(lambda: bus.nc.is_connected, timeout_s=START_S)

                async def settled() -> bool:
                    found = await client.of(CallSettled, own)
                    return [(one.cost_cad, one.estimated) for one in found] == [(BILLED, False)]

                await eventually(settled, timeout_s=START_S)
                assert len(await client.of(CallReserved, own)) == 1
