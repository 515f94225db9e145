"""The prices of the package `genai-prices`, in the form in which calls are priced here.

Importing this costs nothing; `load` imports the package, which takes 1-3 s of one core.
"""

import functools
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from decimal import ROUND_CEILING, Decimal
from typing import TYPE_CHECKING

from domain.pricing import FAST, US_ONLY
from domain.tariff import PLACE
from events.call import Price, Rates, Tier

if TYPE_CHECKING:
    from genai_prices.data_snapshot import DataSnapshot
    from genai_prices.types import ModelInfo, ModelPrice, TieredPrices

PUBLISHED: Mapping[str, date] = {"0.2.3": date(2026, 11, 10)}
"""When a release of the package was made; it does not say so itself."""
_BILLED_PER_CALL = ("requests_kcount", "input_text_messages_kcount")
_TOKEN_KEYS = ("input_mtok", "output_mtok", "cache_read_mtok", "cache_write_mtok", "cache_write_1h_mtok")
_ANTHROPIC = "anthropic"


@dataclass(frozen=True, slots=True)
class Found:
    """A model that the package has a price for, at the time that was asked for."""

    provider: str
    price: Price
    tiers: tuple[Tier, ...]
    server_tools: Mapping[str, Decimal]

    def rates(self, cad: Decimal, price_id: str, speed: str | None) -> Rates:
        """`speed`: what the request asks for; only a faster service is dearer."""
        return Rates(
            price=self.price,
            tiers=self.tiers,
            server_tools=dict(self.server_tools),
            multiplier_max=multiplier_max(self.provider, speed),
            currency="USD",
            cad=cad,
            price_id=price_id,
        )


def multiplier_max(provider: str, speed: str | None) -> Decimal:
    """Return the dearest way a call can be billed: where it runs may follow from the account, its speed is asked for."""
    place = US_ONLY if provider == _ANTHROPIC else Decimal(1)
    return place * (FAST if speed == "fast" else 1)


@dataclass(frozen=True, slots=True)
class Packaged:
    """The package's table, loaded."""

    source: str
    as_of: datetime
    digest: str
    """SHA-256 of all of its prices."""
    models_count: int
    snapshot: "DataSnapshot" = field(repr=False)

    def find(self, provider: str | None, model: str, now: datetime) -> Found | None:
        """Return the model's price; None where it is unknown or not billed by tokens alone."""
        try:
            of, info = self.snapshot.find_provider_model(model, None, provider, None)
        except LookupError:
            return None
        return _found(of.id, info, now)


@functools.cache
def load() -> Packaged:
    """Import the package and read its table, once per process. Blocks for seconds."""
    from importlib.metadata import version  # noqa: PLC0415 - with the package, off the event loop

    from genai_prices.data_snapshot import get_snapshot  # noqa: PLC0415 - 1-3 s and 95 MB

    snapshot, release = get_snapshot(), version("genai-prices")
    digest = hashlib.sha256(release.encode())
    models_count, newest = 0, date(2020, 1, 1)
    for provider in snapshot.providers:
        for model in provider.models:
            models_count += 1
            digest.update(f"{provider.id} {model.id} {model.prices!r}".encode())
            newest = max(newest, _newest_start(model))
    return Packaged(
        source=f"genai-prices {release}",
        as_of=datetime.combine(PUBLISHED.get(release, newest), datetime.min.time(), UTC),
        digest=digest.hexdigest(),
        models_count=models_count,
        snapshot=snapshot,
    )


def _newest_start(model: "ModelInfo") -> date:
    """Return when the newest of a model's prices that has begun began: how new an unknown release is at least."""
    if not isinstance(model.prices, list):
        return date.min
    starts = (getattr(price.constraint, "start_date", date.min) for price in model.prices)
    return max((start for start in starts if start <= datetime.now(UTC).date()), default=date.min)


def _found(provider: str, model: "ModelInfo", now: datetime) -> Found | None:
    prices = model.get_prices(now)
    values = {key: value for key in _TOKEN_KEYS if (value := _value(prices, key)) is not None}
    if "input_mtok" not in values or any(_value(prices, key) is not None for key in _BILLED_PER_CALL):
        return None
    tools = {"web_fetch": Decimal(0)} if provider == _ANTHROPIC else dict[str, Decimal]()
    searches = _value(prices, "web_searches_kcount")
    if searches is not None:
        tools["web_search"] = _up(_base(searches) / 1_000)
    starts = sorted({tier.start for value in values.values() if not isinstance(value, Decimal) for tier in value.tiers})
    return Found(
        provider,
        _price(values, None),
        tuple(Tier(above_input_tokens=start, price=_price(values, start)) for start in starts if start > 0),
        tools,
    )


def _value(prices: "ModelPrice", key: str) -> "Decimal | TieredPrices | None":
    return getattr(prices, key)


def _base(value: "Decimal | TieredPrices") -> Decimal:
    return value if isinstance(value, Decimal) else value.base


def _price(values: "Mapping[str, Decimal | TieredPrices]", above: int | None) -> Price:
    """Return the prices in one tier; a class without a price of its own costs what the class it is part of costs."""

    def of(key: str) -> Decimal | None:
        value = values.get(key)
        if value is None:
            return None
        if isinstance(value, Decimal) or above is None:
            return _up(_base(value))
        reached = [tier.price for tier in value.tiers if tier.start <= above]
        return _up(reached[-1] if reached else value.base)

    plain = of("input_mtok")
    assert plain is not None
    write = of("cache_write_mtok")
    write_1h = of("cache_write_1h_mtok")
    read = of("cache_read_mtok")
    written = plain if write is None else write
    return Price(
        input=plain,
        output=of("output_mtok") or Decimal(0),
        cache_read=plain if read is None else read,
        cache_write_5m=written,
        cache_write_1h=written if write_1h is None else write_1h,
    )


def _up(amount: Decimal) -> Decimal:
    return amount.quantize(PLACE, rounding=ROUND_CEILING)
