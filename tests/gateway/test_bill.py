"""Three ledgers of the same calls: the provider's own bill, the settled events, and the rows of the read model."""

import asyncio
from decimal import Decimal

import pytest

from cli.stack.nats import EmbeddedNats
from events import address
from events.call import CallReserved, CallSettled
from events.ids import HUB
from services.kit.bus import Bus
from services.kit.ledger import LedgerClient
from services.rehearsal.app import PRICES, running
from tests.budget.calling import money, settings
from tests.budget.world import SHOP
from tests.gateway.test_with_budget import admitted, budgeted, upstream
from tests.gateway.world import a_world
from tests.harness import eventually
from tests.projector.world import projecting, rows

pytestmark = pytest.mark.timeout(120)
CALLS = 40
NANO = Decimal("0.000000001")
SUMS = "SELECT count(*), sum(cost) FROM resource_usage WHERE resource_type = 'api_calls' AND currency = 'USD'"


def asked(number: int) -> dict[str, object]:
    """A request of its own length; streaming or not, without a cache or with one of either life."""
    text: dict[str, object] = {"type": "text", "text": "Say something short. " + "x" * (37 * number)}
    control = (None, {"type": "ephemeral"}, {"type": "ephemeral", "ttl": "1h"})[number % 3]
    if control is not None:
        text["cache_control"] = control
    return {
        "model": ("rehearsal-sonnet", "rehearsal-haiku")[number % 2],
        "max_tokens": 2_000,
        "stream": number % 4 != 0,
        "messages": [{"role": "user", "content": [text]}],
    }


async def test_bill_events_and_read_model_are_equal_to_the_last_place(
    bus: Bus, nats_server: EmbeddedNats, database: str
) -> None:
    async with (
        budgeted(bus, nats_server) as (client, instances),
        running(()) as (model, url),
        projecting(bus, database),
        a_world(bus, ledger=LedgerClient(bus.wire), gateway_upstreams=(upstream(url),)) as world,
    ):
        await instances.start(settings(prices_own=list(PRICES)))
        await client.set_budget(HUB, money("100"))
        await client.set_budget(SHOP, money("90"))
        machine = await admitted(world, client, "50")
        answers = await asyncio.gather(*(world.said(machine, asked(number)) for number in range(CALLS)))
        assert [status for status, _ in answers] == [200] * CALLS
        own = address.budget(SHOP, machine.machine_id)

        async def all_settled() -> bool:
            return len(await client.of(CallSettled, own)) == CALLS

        await eventually(all_settled)
        settled = await client.of(CallSettled, own)
        assert not [one for one in settled if one.estimated]
        assert len({one.call_id for one in settled}) == len(await client.of(CallReserved, own)) == CALLS
        assert {one.currency for one in settled} == {"USD"}
        for kind in ("input", "output", "cache_write_5m", "cache_write_1h"):
            assert any(getattr(one.tokens, kind) for one in settled), f"no call has {kind}"
        billed = model.bill.nano_usd * NANO
        assert billed == sum((one.cost for one in settled), Decimal(0)) > 0
        await eventually(lambda: rows(database, SUMS) == [(CALLS, billed)])
