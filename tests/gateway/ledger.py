"""A ledger in memory, for tests of the gateway; the contract in `test_ledger_contract.py` holds for it and for the budget's."""

import asyncio
from decimal import Decimal
from uuid import UUID

from events.call import Price, Rates, Tokens
from events.ledger import (
    AskPrice,
    Granted,
    NotGranted,
    Observe,
    Priced,
    Renew,
    Renewed,
    Reserve,
    Settle,
    Settled,
    Void,
)
from services.kit.ledger import LedgerUnreachable

MTOK = Decimal(1_000_000)
PRICE = Price(
    input=Decimal(2),
    output=Decimal(10),
    cache_read=Decimal("0.2"),
    cache_write_5m=Decimal("2.5"),
    cache_write_1h=Decimal(4),
)
RATES = Rates(price=PRICE, multiplier_max=Decimal(1), currency="CAD", cad=Decimal(1), price_id="0" * 64)


def cost(tokens: Tokens) -> Decimal:
    return (
        tokens.input * PRICE.input
        + tokens.output * PRICE.output
        + tokens.cache_read * PRICE.cache_read
        + tokens.cache_write_5m * PRICE.cache_write_5m
        + tokens.cache_write_1h * PRICE.cache_write_1h
    ) / MTOK


class MemoryLedger:
    """Grants while there is money; remembers all that it was told."""

    def __init__(self, cad: Decimal = Decimal(1_000)) -> None:
        self.cad = cad
        self.used = Decimal(0)
        self.reserved: dict[UUID, Reserve] = {}
        self.open: dict[UUID, Decimal] = {}
        self.observed: list[Observe] = []
        self.settled: dict[UUID, Settle] = {}
        self.voided: dict[UUID, Void] = {}
        self.renewed: list[Renew] = []
        self.answers: dict[UUID, Granted | NotGranted] = {}
        self.refuses: NotGranted | None = None
        self.output_granted: int | None = None
        self.gate = asyncio.Event()
        """Reservations wait for it."""
        self.gate.set()
        self.away = 0
        """So many questions get no answer."""

    async def reserve(self, ask: Reserve) -> Granted | NotGranted:
        self._there()
        if ask.call_id in self.settled or ask.call_id in self.voided:
            return NotGranted(call_id=ask.call_id, code="cancelled", message="the call is over")
        if (known := self.answers.get(ask.call_id)) is not None:
            return known
        self.reserved[ask.call_id] = ask
        await self.gate.wait()
        if self.refuses is not None:
            answer: Granted | NotGranted = self.refuses.model_copy(update={"call_id": ask.call_id})
        else:
            answer = self._decided(ask)
        self.answers[ask.call_id] = answer
        return answer

    def _decided(self, ask: Reserve) -> Granted | NotGranted:
        output_max = min(ask.output_tokens_max, self.output_granted or ask.output_tokens_max)
        held = cost(Tokens(cache_write_1h=ask.input_tokens_max, output=output_max))
        available = self.cad - self.used - sum(self.open.values(), Decimal(0))
        if held > available:
            said = f"asked {held} CAD, {available} CAD are there"
            return NotGranted(call_id=ask.call_id, code="exhausted", message=said)
        self.open[ask.call_id] = held
        return Granted(call_id=ask.call_id, output_tokens_max=output_max, held_cad=held)

    async def observe(self, ask: Observe) -> None:
        self._there()
        self.observed.append(ask)

    async def settle(self, ask: Settle) -> Settled:
        self._there()
        assert ask.call_id not in self.voided, "a call is resolved once"
        if ask.call_id not in self.settled:
            self.used += cost(ask.tokens)
        assert self.settled.setdefault(ask.call_id, ask) == ask, "a call is settled once"
        self.open.pop(ask.call_id, None)
        return Settled(call_id=ask.call_id, cost_cad=cost(ask.tokens), spent_cad=self.used)

    async def void(self, ask: Void) -> None:
        self._there()
        assert ask.call_id not in self.settled, "a call is resolved once"
        self.voided[ask.call_id] = ask
        self.open.pop(ask.call_id, None)

    async def renew(self, ask: Renew) -> Renewed:
        self._there()
        self.renewed.append(ask)
        return Renewed(lost=tuple(call.call_id for call in ask.calls if call.call_id not in self.open))

    async def price(self, ask: AskPrice) -> Priced:
        return Priced(model=ask.model, provider=ask.provider, rates=RATES, source="test")

    def _there(self) -> None:
        if self.away:
            self.away -= 1
            raise LedgerUnreachable("nobody answers")
