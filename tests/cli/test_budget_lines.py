"""What people are told of budgets and model calls."""

import pytest

from cli.commands import budgets
from cli.exits import CliError
from cli.hub import Json
from cli.printing import line_of_event, note_of_event
from events.budget import UNIT_OF
from events.words import Resource


def said(type_name: str, **body: object) -> Json:
    return {
        "seq": 7,
        "recorded_at": "2026-11-20T12:30:00.123456Z",
        "project": "webshop",
        "aggregate_id": "webshop",
        "type": type_name,
        "body": body,
    }


CROSSED = {"resource": "money", "period": "daily", "percent": 80, "used": "4", "allocated": "5"}


@pytest.mark.parametrize(
    ("event", "told"),
    [
        (said("BudgetThresholdCrossed", **CROSSED), "budget warning: 80 % of money (daily): 4 of 5 used"),
        (
            said("BudgetThresholdCrossed", **CROSSED, soft="4"),
            "budget warning: soft limit of 4 of money (daily): 4 of 5 used",
        ),
        (
            said("BudgetExhausted", resource="tokens", period="total", used="9", allocated="9"),
            "budget used up: tokens (total): 9 of 9 used",
        ),
    ],
)
def test_a_follower_is_warned_of_budgets(event: Json, told: str) -> None:
    assert note_of_event(event) == told


@pytest.mark.parametrize(
    ("event", "told"),
    [
        (said("BudgetTopUpRequested", amount="2", unit="CAD", period="total"), "2 CAD total"),
        (said("BudgetDrawn", lines=[{"amount": "0.3", "resource": "money"}]), "0.3 money"),
        (said("PriceTableLoaded", source="genai-prices 0.2.3", models=1100), "genai-prices 0.2.3, 1100 models"),
        (said("CallReserved", model="m", held={"money": "0.2", "api_calls": "1"}), "m, holds 0.2 money, 1 api_calls"),
    ],
)
def test_an_event_about_budgets_tells_its_story_in_a_line(event: Json, told: str) -> None:
    assert line_of_event(event).endswith(told)


def test_every_resource_is_typed_in_its_unit() -> None:
    assert {resource: unit.value for resource, unit in UNIT_OF.items()} == budgets.UNIT
    amount = budgets._amount  # pyright: ignore[reportPrivateUsage] # what the arguments go through
    assert amount("2h", Resource.TIME) == ("120", "minutes")
    assert amount("90", Resource.TIME) == ("90", "minutes")
    assert amount("1.5USD", Resource.MONEY) == ("1.5", "USD")
    assert amount("1000", Resource.TOKENS) == ("1000", "tokens")
    with pytest.raises(CliError, match="--soft"):
        amount("much", Resource.MONEY, "--soft")


def test_an_account_says_what_it_will_come_to() -> None:
    forecast, warnings = budgets._forecast, budgets._warnings  # pyright: ignore[reportPrivateUsage] # as above
    item: Json = {
        "scope": "project",
        "project": "webshop",
        "machine_uuid": None,
        "resource_type": "money",
        "budget_period": "daily",
        "unit": "CAD",
        "period_end": "2026-11-21T00:00:00+00:00",
        "runs_out_at": "2026-11-20T18:30:11+00:00",
        "forecast_amount": "7.000000000",
        "crossed": [50, 80],
        "soft_reached": True,
        "soft_amount": "4.000000000",
    }
    assert forecast(item) == "runs out 2026-11-20 18:30"
    assert forecast({**item, "runs_out_at": None}) == "ends at 7.00"
    assert forecast({**item, "runs_out_at": None, "forecast_amount": None}) == "-"
    assert list(warnings(item)) == [
        "webshop: money (daily) has reached 80 % of what is allocated",
        "webshop: money (daily) is beyond its soft limit of 4.00 CAD",
    ]
    assert list(warnings({**item, "forecast_amount": None})) == []
