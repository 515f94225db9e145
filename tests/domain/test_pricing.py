"""What a model call costs, and at most."""

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from domain.pricing import UnpricedTool, cost_of, held_cad, in_cad, multiplier_of, unpriced
from events.call import Price, Rates, Tier, Tokens

OPUS = Price(
    input=Decimal(4),
    output=Decimal(20),
    cache_read=Decimal("0.2"),
    cache_write_5m=Decimal(5),
    cache_write_1h=Decimal(8),
)
DEAR = Price(
    input=Decimal(6),
    output=Decimal(30),
    cache_read=Decimal("0.6"),
    cache_write_5m=Decimal(7),
    cache_write_1h=Decimal(12),
)
prices = st.decimals(0, 100, places=6)
counts = st.integers(0, 2_000_000)
price_of = st.builds(
    Price, input=prices, output=prices, cache_read=prices, cache_write_5m=prices, cache_write_1h=prices
)


def rates(**changes: object) -> Rates:
    return Rates.model_validate(
        {
            "price": OPUS,
            "tiers": (Tier(above_input_tokens=200_000, price=DEAR),),
            "server_tools": {"web_search": "0.01"},
            "multiplier_max": "1.1",
            "currency": "USD",
            "cad": "1.4",
            "price_id": "0" * 64,
            **changes,
        }
    )


def test_every_class_of_tokens_has_its_price() -> None:
    tokens = Tokens(input=25, cache_write_5m=60, cache_write_1h=40, cache_read=1_000, output=20)
    assert cost_of(rates(), tokens) == Decimal("0.00132")


def test_a_tier_follows_from_all_input_and_holds_for_every_token() -> None:
    assert cost_of(rates(), Tokens(input=100_000, cache_read=100_000, output=1)) == Decimal("0.42002")
    assert cost_of(rates(), Tokens(input=100_000, cache_read=100_001, output=1)) == Decimal("0.6600306")


def test_tools_of_the_provider_cost_by_use_and_without_the_multiplier() -> None:
    assert cost_of(rates(), Tokens(output=1_000), {"web_search": 3}, Decimal("0.5")) == Decimal("0.04")


def test_less_than_a_billionth_counts_as_one() -> None:
    tiny = rates(price=Price.model_validate(dict.fromkeys(Price.model_fields, "0.0001")))
    assert cost_of(tiny, Tokens(input=1)) == Decimal("1e-9")


def test_what_is_free_costs_nothing_whatever_its_price_says() -> None:
    free = rates(is_free=True)
    assert cost_of(free, Tokens(output=9)) == held_cad(free, Tokens(output=9), {"shell": 9}) == 0


@pytest.mark.parametrize(
    ("said", "multiplier", "unknown"),
    [
        ((None, None, None), "1", ()),
        (("standard", "standard", "global"), "1", ()),
        (("batch", None, None), "0.5", ()),
        ((None, "fast", "us"), "2.2", ()),
        (("priority", None, "mars"), "1", ("service_tier priority", "inference_geo mars")),
    ],
)
def test_how_a_call_is_billed(said: tuple[str | None, ...], multiplier: str, unknown: tuple[str, ...]) -> None:
    billing = multiplier_of(*said)
    assert (billing.multiplier, billing.unknown) == (Decimal(multiplier), unknown)


def test_a_tool_without_a_price_has_no_worst_case() -> None:
    assert unpriced(rates(), {"web_search": 1, "shell": 1, "moon": 0}) == ("shell",)
    with pytest.raises(UnpricedTool, match="shell"):
        held_cad(rates(), Tokens(), {"shell": 1})


def test_the_exchange_rate_may_move_by_two_percent() -> None:
    bound = Tokens(output=1_000_000)
    assert held_cad(rates(multiplier_max="1"), bound) == Decimal("28.56")
    assert held_cad(rates(multiplier_max="1", currency="CAD", cad="1"), bound) == Decimal(20)


splits = st.lists(st.integers(0, 1_000_000), min_size=4, max_size=4)


@given(price=price_of, above=price_of, bound=st.builds(Tokens, input=counts, output=counts), split=splits, part=counts)
@pytest.mark.parametrize("write", ["input", "cache_write_5m", "cache_write_1h"])
@pytest.mark.parametrize("speed", [None, "fast"])
def test_no_call_within_its_bound_costs_more_than_was_held(  # noqa: PLR0917 - a call has so many sides
    price: Price, above: Price, bound: Tokens, split: list[int], part: int, write: str, speed: str | None
) -> None:
    table = rates(price=price, tiers=(Tier(above_input_tokens=200_000, price=above),), multiplier_max="2.2")
    named = Tokens.model_validate({write: bound.input, "output": bound.output})
    of_input = [share * bound.input // max(1, sum(split)) for share in split]
    used = Tokens(
        input=of_input[0],
        cache_read=of_input[1],
        cache_write_5m=of_input[2],
        cache_write_1h=of_input[3] if write == "cache_write_1h" else 0,
        output=min(part, bound.output),
    )
    billing = multiplier_of(speed=speed, inference_geo="us")
    cost = in_cad(table, cost_of(table, used, {"web_search": 3}, billing.multiplier))
    assert cost <= held_cad(table, named, {"web_search": 5})
