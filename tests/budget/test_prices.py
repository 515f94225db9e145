"""What the hub knows of prices, against the package's own reckoning."""

import json
from datetime import UTC, datetime
from decimal import ROUND_CEILING, Decimal
from pathlib import Path

import pytest

from domain.pricing import cost_of
from domain.tariff import PLACE
from events.call import Rates, Tokens
from events.ledger import AskPrice
from services.budget.own_prices import OwnPricesWrong
from services.budget.prices import PriceBook
from services.budget.settings import BudgetSettings

NOW = datetime(2026, 11, 28, tzinfo=UTC)
pytestmark = pytest.mark.timeout(60)

MODELS = [
    ("anthropic", "claude-opus-5-5"),
    ("anthropic", "claude-opus-4-8"),
    ("anthropic", "claude-sonnet-4-5"),
    ("anthropic", "claude-haiku-4-5-20251001"),
    ("openai", "gpt-5"),
    ("openai", "gpt-5.6-sol"),
    ("google", "gemini-2.5-pro"),
    ("deepseek", "deepseek-chat"),
]
USAGES = [
    Tokens(input=25, cache_write_5m=60, cache_write_1h=40, cache_read=1_000, output=20),
    Tokens(input=1, output=1),
    Tokens(cache_read=199_999, input=1, output=7),
    Tokens(cache_read=199_999, input=2, output=7),
    Tokens(cache_write_1h=150_000, cache_write_5m=150_000, output=128_000),
    Tokens(),
]


@pytest.fixture
def book() -> PriceBook:
    return PriceBook(BudgetSettings(cad_per_usd=Decimal("1.4")))


async def rates_of(book: PriceBook, provider: str | None, model: str) -> Rates:
    priced = await book.lookup(AskPrice(provider=provider, model=model), NOW)
    assert priced.rates is not None
    return priced.rates


@pytest.mark.parametrize(("provider", "model"), MODELS)
@pytest.mark.parametrize("tokens", USAGES, ids=lambda tokens: str(tokens.total))
async def test_a_cost_is_the_packages_to_the_last_place(
    book: PriceBook, provider: str, model: str, tokens: Tokens
) -> None:
    from genai_prices import Usage, calc_price  # noqa: PLC0415 - takes seconds

    searches = 3 if provider == "anthropic" else 0
    writes = {
        "cache_write_tokens": tokens.cache_write_5m + tokens.cache_write_1h,
        "cache_write_1h_tokens": tokens.cache_write_1h,
    }
    theirs = calc_price(
        Usage(
            input_tokens=tokens.total - tokens.output,
            output_tokens=tokens.output,
            cache_read_tokens=tokens.cache_read,
            web_searches=searches,
            **writes,
        ),
        model,
        provider_id=provider,
        genai_request_timestamp=NOW,
    ).total_price
    ours = cost_of(await rates_of(book, provider, model), tokens, {"web_search": searches})
    assert ours == theirs.quantize(PLACE, rounding=ROUND_CEILING)


async def test_a_model_that_nobody_knows_has_no_rates(book: PriceBook) -> None:
    priced = await book.lookup(AskPrice(provider="anthropic", model="claude-next-year"), NOW)
    assert (priced.rates, priced.source) == (None, "genai-prices 0.2.3")
    assert (await book.lookup(AskPrice(provider="nobody", model="gpt-5"), NOW)).rates is None


async def test_whoever_offers_a_model_is_found_when_nobody_is_named(book: PriceBook) -> None:
    assert (await book.lookup(AskPrice(model="claude-opus-5-5"), NOW)).provider == "anthropic"


async def test_only_a_call_that_asks_for_speed_is_held_for_it(book: PriceBook) -> None:
    fast = await book.lookup(AskPrice(provider="anthropic", model="claude-opus-5-5", speed="fast"), NOW)
    assert fast.rates is not None
    assert fast.rates.multiplier_max == Decimal("2.2")
    assert (await rates_of(book, "anthropic", "claude-opus-5-5")).multiplier_max == Decimal("1.1")


async def test_the_table_is_named_by_its_content_and_its_exchange_rates(book: PriceBook) -> None:
    (table,) = await book.load(NOW)
    assert (table.source, table.as_of) == ("genai-prices 0.2.3", datetime(2026, 11, 10, tzinfo=UTC))
    assert (table.cad_per, table.models > 1_000) == ({"USD": Decimal("1.4"), "CAD": Decimal(1)}, True)
    assert (await rates_of(book, "anthropic", "claude-opus-5-5")).price_id == table.price_id
    (other,) = await PriceBook(BudgetSettings(cad_per_usd=Decimal("1.5"))).load(NOW)
    (again,) = await PriceBook(BudgetSettings(cad_per_usd=Decimal("1.40"))).load(NOW)
    assert (other.price_id != table.price_id, again.price_id) == (True, table.price_id)


OWN = """
as_of = 2026-11-20
[[models]]
model = "local-*"
provider = "vllm"
free = true
[[models]]
model = "claude-opus-5-5"
currency = "CAD"
input = 1.5
output = 2
[[models.tiers]]
above_input_tokens = 1000
input = 3
output = 4
"""


async def test_the_hubs_own_prices_count_first_and_need_no_package(tmp_path: Path) -> None:
    file = tmp_path / "prices.toml"
    file.write_text(OWN)
    book = PriceBook(BudgetSettings(prices_path=file, prices_packaged=False))
    assert (await rates_of(book, "vllm", "local-7b")).is_free
    own = await rates_of(book, "anthropic", "claude-opus-5-5")
    assert (own.currency, own.cad, cost_of(own, Tokens(input=1_000_000))) == ("CAD", 1, 3)
    assert (await book.lookup(AskPrice(provider="openai", model="gpt-5"), NOW)).rates is None
    (table,) = await book.load(NOW)
    assert (table.source, table.models, table.as_of) == ("own prices", 2, datetime(2026, 11, 20, tzinfo=UTC))


async def test_a_currency_without_an_exchange_rate_is_an_unknown_price() -> None:
    entry = {"model": "m", "currency": "EUR", "input": "1", "output": "1"}
    unknown = PriceBook(BudgetSettings.model_validate({"prices_own": [entry]}))
    assert (await unknown.lookup(AskPrice(model="m"), NOW)).rates is None
    known = PriceBook(BudgetSettings.model_validate({"prices_own": [entry], "cad_per": {"EUR": "1.6"}}))
    assert (await rates_of(known, None, "m")).cad == Decimal("1.6")


def test_own_prices_are_read_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AUTOVIBE_PRICES_OWN", json.dumps([{"model": "m", "free": True}]))
    monkeypatch.setenv("AUTOVIBE_CAD_PER", json.dumps({"EUR": "1.6"}))
    settings = BudgetSettings()
    assert (settings.prices_own[0].free, settings.cad_per_currency["EUR"]) == (True, Decimal("1.6"))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[[models]]\nmodel = 'a'\ninput = 1\n", "needs `input` and `output`"),
        ("[[models]]\nmodel = 'a'\nfree = true\noutput = 1\n", "free and a price"),
        ("[[models]]\nmodel = 'a'\nfree = true\nprice = 1\n", "models.0.price"),
        ("[[models]\n", "a TOML file with a table"),
    ],
)
def test_a_wrong_file_says_what_is_wrong(tmp_path: Path, text: str, said: str) -> None:
    file = tmp_path / "prices.toml"
    file.write_text(text)
    with pytest.raises(OwnPricesWrong, match=said):
        PriceBook(BudgetSettings(prices_path=file))
