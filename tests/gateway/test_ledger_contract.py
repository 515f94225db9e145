"""What the gateway relies on a ledger for: the one in memory that its tests use, and the budget's, are held to the same."""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from decimal import Decimal
from uuid import UUID

import pytest
import pytest_asyncio

from cli.stack.nats import EmbeddedNats
from events.call import Tokens
from events.fresh import now, uuid7
from events.ids import HUB
from events.ledger import AskPrice, Call, Granted, NotGranted, Observe, Renew, Reserve, Settle, Void
from events.words import HoldMode
from services.kit.bus import Bus
from services.kit.ledger import CallLedger
from services.kit.settings import BusSettings
from tests.budget.calling import MODEL, Caller, money, settings
from tests.budget.conftest import Client, Instances
from tests.budget.world import SHOP
from tests.gateway.ledger import MemoryLedger

pytestmark = pytest.mark.timeout(60)
OUTPUT = 20_000


@dataclass(frozen=True, slots=True)
class Books:
    """A ledger with one CAD for the calls of one machine."""

    ledger: CallLedger
    machine_id: UUID

    def call(self) -> Call:
        return Call(call_id=uuid7(), project=SHOP, machine_id=self.machine_id, epoch=1)

    async def reserve(self, call: Call, output: int = OUTPUT) -> Granted | NotGranted:
        ask = Reserve(
            **dict(call),
            provider="rehearsal",
            model=MODEL,
            input_tokens_max=10_000,
            output_tokens_max=output,
            mode=HoldMode.STRICT,
        )
        return await self.ledger.reserve(ask)

    def settle(self, call: Call) -> Settle:
        moment = now()
        return Settle(**dict(call), tokens=Tokens(input=500, output=50), began_at=moment, ended_at=moment)


class Contract:
    """The promises of `CallLedger`."""

    async def test_what_is_granted_covers_all_that_was_asked(self, books: Books) -> None:
        call = books.call()
        answer = await books.reserve(call)
        assert isinstance(answer, Granted)
        assert (answer.call_id, answer.output_tokens_max) == (call.call_id, OUTPUT)
        assert answer.held_cad > 0

    async def test_a_reservation_asked_again_is_the_same_one(self, books: Books) -> None:
        call = books.call()
        assert await books.reserve(call) == await books.reserve(call)

    async def test_a_settlement_said_again_costs_once(self, books: Books) -> None:
        call = books.call()
        await books.reserve(call)
        said = books.settle(call)
        first = await books.ledger.settle(said)
        assert first == await books.ledger.settle(said)
        assert first.cost_cad == first.spent_cad > 0

    async def test_what_was_observed_changes_no_cost(self, books: Books) -> None:
        call = books.call()
        await books.reserve(call)
        await books.ledger.observe(Observe(**dict(call), tokens=Tokens(input=500)))
        settled = await books.ledger.settle(books.settle(call))
        other = books.call()
        await books.reserve(other)
        assert (await books.ledger.settle(books.settle(other))).cost_cad == settled.cost_cad

    async def test_a_void_gives_the_money_back_and_may_be_said_again(self, books: Books) -> None:
        for _ in range(12):
            call = books.call()
            assert isinstance(await books.reserve(call, 80_000), Granted)
            for _ in range(2):
                await books.ledger.void(Void(**dict(call), reason="nothing came of it"))

    async def test_a_call_that_is_resolved_is_not_granted_again(self, books: Books) -> None:
        paid, nothing = books.call(), books.call()
        for call in (paid, nothing):
            await books.reserve(call)
        await books.ledger.settle(books.settle(paid))
        await books.ledger.void(Void(**dict(nothing), reason="nothing came of it"))
        for call in (paid, nothing):
            answer = await books.reserve(call)
            assert isinstance(answer, NotGranted)
            assert answer.code == "cancelled"

    async def test_a_void_that_overtakes_its_reservation_keeps_it_from_being_granted(self, books: Books) -> None:
        call = books.call()
        await books.ledger.void(Void(**dict(call), reason="whoever asked has gone"))
        answer = await books.reserve(call)
        assert isinstance(answer, NotGranted)
        assert answer.code == "cancelled"
        assert (await books.ledger.renew(Renew(calls=(call,)))).lost == (call.call_id,)

    async def test_more_than_there_is_is_not_granted(self, books: Books) -> None:
        answer = await books.reserve(books.call(), 2_000_000)
        assert isinstance(answer, NotGranted)
        assert answer.message

    async def test_a_renewal_names_what_is_no_longer_open(self, books: Books) -> None:
        alive, over = books.call(), books.call()
        for call in (alive, over):
            await books.reserve(call)
        await books.ledger.settle(books.settle(over))
        renewed = await books.ledger.renew(Renew(calls=(alive, over)))
        assert renewed.lost == (over.call_id,)

    async def test_a_known_model_has_a_price(self, books: Books) -> None:
        priced = await books.ledger.price(AskPrice(provider="rehearsal", model=MODEL))
        assert priced.rates is not None


class TestMemory(Contract):
    @pytest.fixture
    def books(self) -> Books:
        return Books(MemoryLedger(Decimal(1)), uuid7())


class TestBudget(Contract):
    @pytest_asyncio.fixture
    async def books(self, bus: Bus, nats_server: EmbeddedNats) -> AsyncIterator[Books]:
        client, instances = Client(bus), Instances(BusSettings(nats_url=nats_server.url))
        try:
            await instances.start(settings())
            await client.set_budget(HUB, money("100"))
            await client.set_budget(SHOP, money("10"))
            caller = await Caller.start(client)
            yield Books(caller.ledger, caller.machine_id)
        finally:
            await instances.stop_all()
