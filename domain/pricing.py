"""What a model call costs: exactly, from its usage, and at most, before it is made.

Costs are rounded up at the ninth place, once in the provider's currency and once in CAD, so what is accounted for is
never less than the provider's bill and more than it by less than a billionth each.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from decimal import ROUND_CEILING, Context, Decimal

from domain.tariff import AMOUNT_MAX, PLACE
from events.call import Price, Rates, Tokens

FX_MARGIN = Decimal("0.02")
"""What is held beyond the pinned exchange rate, for a call that is not billed in CAD."""
FAST = Decimal(2)
BATCH = Decimal("0.5")
US_ONLY = Decimal("1.1")
"""What the provider's documentation says of a faster service, of batches and of inference kept in one country."""
_EXACT = Context(prec=80)
_MILLION = Decimal(1_000_000)
_TIERS: Mapping[str, Decimal] = {"standard": Decimal(1), "default": Decimal(1), "batch": BATCH}
_SPEEDS: Mapping[str, Decimal] = {"standard": Decimal(1), "fast": FAST}
_PLACES: Mapping[str, Decimal] = {"us": US_ONLY, "global": Decimal(1), "not_available": Decimal(1)}


class UnpricedTool(LookupError):
    """A tool that runs at the provider has no price, so there is no worst case; the call must not be forwarded."""


@dataclass(frozen=True, slots=True)
class Billing:
    """How the provider said it bills a call."""

    multiplier: Decimal
    unknown: tuple[str, ...] = ()
    """What was said that no factor is known for, e.g. `service_tier priority`; each counts as 1."""


def multiplier_of(
    service_tier: str | None = None, speed: str | None = None, inference_geo: str | None = None
) -> Billing:
    """Return the factor on the price of tokens; tools that run at the provider are billed without it."""
    multiplier, unknown = Decimal(1), list[str]()
    for what, said, known in (
        ("service_tier", service_tier, _TIERS),
        ("speed", speed, _SPEEDS),
        ("inference_geo", inference_geo, _PLACES),
    ):
        if said is None or said == "":
            continue
        factor = known.get(said.lower())
        if factor is None:
            unknown.append(f"{what} {said}")
        else:
            multiplier *= factor
    return Billing(multiplier, tuple(unknown))


def cost_of(
    rates: Rates, tokens: Tokens, server_tools: Mapping[str, int] | None = None, multiplier: Decimal = Decimal(1)
) -> Decimal:
    """Return what the call costs in the currency of `rates`, rounded up at the ninth place.

    The tier follows from all input together and holds for every token of the call. A tool without a price counts
    nothing: see `unpriced`.
    """
    if rates.is_free:
        return Decimal(0)
    price = _tier(rates, _input_of(tokens))
    of_tokens = _EXACT.multiply(_of_tokens(price, tokens), multiplier)
    return _up(_EXACT.add(of_tokens, _of_tools(rates, server_tools or {})))


def in_cad(rates: Rates, cost: Decimal) -> Decimal:
    """Return a cost in CAD at the pinned rate, rounded up at the ninth place."""
    return _up(_EXACT.multiply(cost, rates.cad))


def held_cad(rates: Rates, bound: Tokens, server_tools: Mapping[str, int] | None = None) -> Decimal:
    """Return the most that a call within `bound` can cost, in CAD: what is set aside for it.

    Every input token counts as the dearest class it may turn out to be, in the dearest tier that it may reach, with the
    dearest way of billing. Some providers write their cache without being asked (OpenAI's newer models bill it), so
    a 5-minute write always counts; a 1-hour one where the bound names one.

    Raises:
        UnpricedTool: There is no worst case.
    """
    if rates.is_free:
        return Decimal(0)
    if missing := unpriced(rates, server_tools or {}):
        raise UnpricedTool(f"{', '.join(missing)}: no price is known, so there is no worst case to set aside")
    of_tokens = max(_worst(price, bound) for price in _possible(rates, _input_of(bound)))
    most = _up(_EXACT.add(_EXACT.multiply(of_tokens, rates.multiplier_max), _of_tools(rates, server_tools or {})))
    margin = Decimal(1) if rates.currency == "CAD" else 1 + FX_MARGIN
    return min(_up(_EXACT.multiply(_EXACT.multiply(most, rates.cad), margin)), AMOUNT_MAX)


def unpriced(rates: Rates, server_tools: Mapping[str, int]) -> tuple[str, ...]:
    """Return the tools that were used and that no price is known for."""
    if rates.is_free:
        return ()
    return tuple(sorted(name for name, count in server_tools.items() if count and name not in rates.server_tools))


def _input_of(tokens: Tokens) -> int:
    return tokens.total - tokens.output


def _tier(rates: Rates, input_tokens: int) -> Price:
    *_, price = _possible(rates, input_tokens)
    return price


def _possible(rates: Rates, input_tokens: int) -> Iterator[Price]:
    """Yield the prices of calls with at most so much input; the last is that of exactly so much."""
    yield rates.price
    for tier in rates.tiers:
        if input_tokens > tier.above_input_tokens:
            yield tier.price


def _of_tokens(price: Price, tokens: Tokens) -> Decimal:
    return _sum(
        (price.input, tokens.input),
        (price.output, tokens.output),
        (price.cache_read, tokens.cache_read),
        (price.cache_write_5m, tokens.cache_write_5m),
        (price.cache_write_1h, tokens.cache_write_1h),
    )


def _worst(price: Price, bound: Tokens) -> Decimal:
    possible = [price.input, price.cache_read, price.cache_write_5m]
    if bound.cache_write_1h:
        possible.append(price.cache_write_1h)
    return _sum((max(possible), _input_of(bound)), (price.output, bound.output))


def _sum(*parts: tuple[Decimal, int]) -> Decimal:
    total = Decimal(0)
    for per_million, count in parts:
        total = _EXACT.add(total, _EXACT.multiply(per_million, Decimal(count)))
    return _EXACT.divide(total, _MILLION)


def _of_tools(rates: Rates, server_tools: Mapping[str, int]) -> Decimal:
    total = Decimal(0)
    for name, count in server_tools.items():
        total = _EXACT.add(total, _EXACT.multiply(rates.server_tools.get(name, Decimal(0)), Decimal(count)))
    return total


def _up(amount: Decimal) -> Decimal:
    return min(amount.quantize(PLACE, rounding=ROUND_CEILING, context=_EXACT), AMOUNT_MAX)
