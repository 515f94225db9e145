"""What models cost: the hub's own prices first, then those of the package `genai-prices`; whatever neither knows is refused.

The package takes seconds and 95 MB to load, so it is loaded in a thread, once; the hub's own prices do not wait for it.
"""

import asyncio
import hashlib
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import structlog

from events.call import PriceTableLoaded, Rates
from events.ledger import AskPrice, Priced
from services.budget.own_prices import OwnPrices
from services.budget.packaged import Packaged, load
from services.budget.settings import BudgetSettings

OLD = timedelta(days=30)
LOOKED_UP_MAX = 1_000
SOURCE_OWN = "own prices"

_log: structlog.stdlib.BoundLogger = structlog.get_logger("budget")


class PriceBook:
    """Answers what a model costs now; the answer is pinned by who asked."""

    def __init__(self, settings: BudgetSettings) -> None:
        """Read the hub's own prices.

        Raises:
            OwnPricesWrong: The file is not what it should be.
        """
        self._cad_per = settings.cad_per_currency
        self._packaged_wanted = settings.prices_packaged
        self._own = OwnPrices.read(settings.prices_path, settings.prices_own, settings.exchange_as_of)
        self._own_id = _id_of(self._own.digest, self._cad_per)
        self._looked_up: dict[tuple[str | None, str, str | None, datetime], Priced] = {}
        """By what was asked and in which minute: prices change by the hour."""
        self._loading: asyncio.Task[Packaged] | None = None

    async def load(self, now: datetime) -> tuple[PriceTableLoaded, ...]:
        """Load everything and return what is to be said on the hub's account, an event per table."""
        said: list[PriceTableLoaded] = []
        if len(self._own):
            said.append(self._table(self._own_id, SOURCE_OWN, self._own.as_of, len(self._own)))
        if self._packaged_wanted:
            packaged = await self._package()
            said.append(
                self._table(self._packaged_id(packaged), packaged.source, packaged.as_of, packaged.models_count)
            )
            if now - packaged.as_of > OLD:
                _log.warning(
                    "prices.old",
                    source=packaged.source,
                    as_of=packaged.as_of.isoformat(),
                    remedy="install a newer genai-prices, or give your own prices (AUTOVIBE_PRICES_PATH)",
                )
        return tuple(said)

    async def lookup(self, ask: AskPrice, now: datetime | None = None) -> Priced:
        """Return what the model costs, or no rates where nobody knows: the call is to be refused.

        `now` decides between prices that change at a date or by the hour. The first question that the hub's own prices
        do not answer waits until the package is loaded.
        """
        at = now or datetime.now(UTC)
        key = (ask.provider, ask.model, ask.speed, at.replace(second=0, microsecond=0))
        priced = self._looked_up.get(key)
        if priced is None:
            if len(self._looked_up) >= LOOKED_UP_MAX:
                self._looked_up.clear()
            priced = self._looked_up[key] = await self._find(ask, at)
        return priced

    async def _find(self, ask: AskPrice, at: datetime) -> Priced:
        own = self._own.find(ask.provider, ask.model)
        if own is not None:
            cad = self._cad_per.get(own.currency)
            rates = None if cad is None else own.rates(cad, self._own_id, ask.speed)
            return self._priced(ask, own.provider or ask.provider, rates, SOURCE_OWN, self._own.as_of)
        if not self._packaged_wanted:
            return Priced(model=ask.model, provider=ask.provider)
        packaged = await self._package()
        cad = self._cad_per.get("USD")
        found = packaged.find(ask.provider, ask.model, at)
        if found is None or cad is None:
            return Priced(model=ask.model, provider=ask.provider, source=packaged.source, as_of=packaged.as_of)
        rates = found.rates(cad, self._packaged_id(packaged), ask.speed)
        return self._priced(ask, found.provider, rates, packaged.source, packaged.as_of)

    def cad_per(self, currency: str) -> Decimal | None:
        """Return the pinned exchange rate; None: none is set."""
        return self._cad_per.get(currency)

    def _packaged_id(self, packaged: Packaged) -> str:
        return _id_of(packaged.digest, self._cad_per)

    def _table(self, price_id: str, source: str, as_of: datetime, models: int) -> PriceTableLoaded:
        return PriceTableLoaded(
            price_id=price_id, source=source, as_of=as_of, models=models, cad_per=dict(self._cad_per)
        )

    def _priced(self, ask: AskPrice, provider: str | None, rates: Rates | None, source: str, as_of: datetime) -> Priced:
        return Priced(model=ask.model, provider=provider, rates=rates, source=source, as_of=as_of)

    async def _package(self) -> Packaged:
        if self._loading is None or (self._loading.done() and self._loading.exception() is not None):
            self._loading = asyncio.create_task(asyncio.to_thread(load))
        return await asyncio.shield(self._loading)


def _id_of(digest: str, cad_per: dict[str, Decimal]) -> str:
    rates = " ".join(f"{currency}={rate.normalize():f}" for currency, rate in sorted(cad_per.items()))
    return hashlib.sha256(f"{digest} {rates}".encode()).hexdigest()
