"""Accounts with their warnings and forecasts, additions to them, use by model, and prices."""

from datetime import timedelta
from decimal import Decimal

from nats.aio.msg import Msg
from nats.micro.request import ERROR_CODE_HEADER, ERROR_HEADER

from events import address
from events.budget import BudgetAllocated, BudgetDrawn, BudgetExtended, BudgetReserved, Line
from events.call import CallCorrected, CallSettled, Price, Rates, Tokens
from events.fresh import now, uuid7
from events.ledger import SUBJECTS, AskPrice, Priced
from events.words import BudgetPeriod, CarryOver, MachineType, Resource, Unit
from tests.query.world import SHOP, World

V1 = "/api/v1"


def money(amount: str) -> tuple[Line, ...]:
    start = now().replace(hour=0, minute=0, second=0, microsecond=0)
    line = Line(resource=Resource.MONEY, amount=Decimal(amount), period=BudgetPeriod.DAILY, period_start=start)
    return (line,)


async def test_an_account_shows_what_it_warns_of_and_when_it_runs_out(world: World) -> None:
    await world.project(SHOP)
    machine_id, reservation = await world.machine(SHOP, "ls"), uuid7()
    start = money("0")[0].period_start
    allocated = BudgetAllocated(
        resource=Resource.MONEY,
        amount=Decimal(12),
        base_amount=Decimal(10),
        unit=Unit.CAD,
        period=BudgetPeriod.DAILY,
        period_start=start,
        period_end=start + timedelta(days=1),
        soft=Decimal(5),
        carry=CarryOver.UNUSED,
    )
    await world.say(
        address.budget(SHOP, SHOP),
        allocated,
        BudgetReserved(reservation_id=reservation, machine_id=machine_id, lines=money("4")),
        BudgetExtended(reservation_id=reservation, machine_id=machine_id, lines=money("3")),
        BudgetDrawn(reservation_id=reservation, machine_id=machine_id, lines=money("6")),
    )
    await world.settled()
    items = (await world.client().get(f"{V1}/reports/budgets", project=SHOP)).json["items"]
    (account,) = [item for item in items if item["allocated_amount"] is not None]
    shown = {name: account[name] for name in ("crossed", "soft_reached", "carry_over", "on_exhausted", "thresholds")}
    assert shown == {
        "crossed": [50],
        "soft_reached": True,
        "carry_over": "unused",
        "on_exhausted": "park",
        "thresholds": [50, 80, 95, 100],
    }
    amounts = [Decimal(account[f"{name}_amount"]) for name in ("allocated", "base", "used", "reserved", "available")]
    assert amounts == [12, 10, 6, 1, 5]
    assert Decimal(account["forecast_amount"]) >= 6
    assert account["runs_out_at"] is None or account["runs_out_at"] > account["period_start"]


async def test_an_addition_is_said_at_the_door(world: World) -> None:
    await world.project(SHOP)
    answer = await world.client().post(
        f"{V1}/resources/budgets/top-up", {"project": SHOP, "resource": "money", "amount": "1.50", "unit": "CAD"}
    )
    assert answer.status == 202, answer.body
    await world.settled()
    (event,) = (await world.client().get(f"{V1}/events", type="BudgetTopUpRequested")).json["items"]
    assert (event["aggregate_id"], event["body"]["amount"]) == (SHOP, "1.50")


async def test_use_by_model_is_the_exact_sum_of_its_calls(world: World) -> None:
    await world.project(SHOP)
    machine_id, call_id = await world.machine(SHOP, "ls"), uuid7()
    settled = CallSettled(
        call_id=call_id,
        epoch=1,
        machine_type=MachineType.CLAUDE_API,
        provider="anthropic",
        model="claude-opus-5-5",
        tokens=Tokens(input=25, output=20),
        multiplier=Decimal(1),
        cost_cad=Decimal("0.000000003"),
        cost=Decimal("0.000000002"),
        currency="USD",
        price_id="0" * 64,
        began_at=now(),
        ended_at=now(),
    )
    other = settled.model_copy(update={"call_id": uuid7(), "cost_cad": Decimal("0.1")})
    corrected = CallCorrected(call_id=call_id, tokens=settled.tokens, cost_cad=Decimal("0.2"), reason="billed so")
    await world.say(address.budget(SHOP, str(machine_id)), settled, other, corrected)
    await world.settled()
    items = (await world.client().get(f"{V1}/resources/usage/summary", by="model")).json["items"]
    by_resource = {item["resource_type"]: item for item in items}
    assert {item["model"] for item in items} == {"claude-opus-5-5"}
    assert (by_resource["api_calls"]["amount"], by_resource["api_calls"]["cost_cad"]) == ("2.000000000", "0.300000000")
    assert (by_resource["tokens"]["amount"], by_resource["tokens"]["cost_cad"]) == ("90.000000000", "0.000000000")
    machine = (await world.client().get(f"{V1}/machines/{machine_id}")).json
    assert machine["resource_usage"]["api_calls"] == {"calls": "2", "cost_cad": "0.3"}


async def test_a_price_is_what_the_budget_says_and_what_nobody_knows_is_not_found(world: World) -> None:
    one = Price.model_validate(dict.fromkeys(Price.model_fields, Decimal(4)))
    rates = Rates(price=one, multiplier_max=Decimal(1), currency="USD", cad=Decimal("1.4"), price_id="0" * 64)

    async def budget(message: Msg) -> None:
        ask = AskPrice.model_validate_json(message.data)
        priced = Priced(model=ask.model, provider="anthropic", rates=rates if ask.model == "known/model" else None)
        await message.respond(priced.model_dump_json().encode())

    await world.bus.nc.subscribe(SUBJECTS[AskPrice], cb=budget)
    found = await world.client().get(f"{V1}/prices", model="known/model")
    assert (found.status, found.json["rates"]["price"]["input"]) == (200, "4")
    unknown = await world.client().get(f"{V1}/prices", model="unknown", provider="nobody")
    assert (unknown.status, unknown.code) == (404, "unknown_model")
    assert "AUTOVIBE_PRICES_PATH" in unknown.json["remedy"]


async def test_without_a_budget_service_a_price_is_unavailable(world: World) -> None:
    async def budget(message: Msg) -> None:
        headers = {ERROR_CODE_HEADER: "503", ERROR_HEADER: "later"}
        await world.bus.nc.publish(message.reply, b"", headers=headers)

    await world.bus.nc.subscribe(SUBJECTS[AskPrice], cb=budget)
    answer = await world.client().get(f"{V1}/prices", model="any")
    assert (answer.status, answer.code) == (503, "unavailable")
    assert (await world.client().get(f"{V1}/prices")).status == 400
