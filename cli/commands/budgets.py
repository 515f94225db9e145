"""`autovibe budget …` and `autovibe usage`."""

from collections.abc import Mapping
from enum import StrEnum
from typing import Annotated

import typer

from cli import console, units
from cli.exits import CliError, Exit
from cli.framing import AsJson, Project, framed, group
from cli.hub import Hub, Json, connect, segment
from cli.watch import until
from events.words import BudgetPeriod

app = group("budget", "Budgets: what the hub, a project or a machine may use.")

SETTLE_S = 15.0


class Resource(StrEnum):
    """What can be budgeted."""

    MONEY = "money"
    TIME = "time"
    API_CALLS = "api_calls"


UNIT = {Resource.TIME: "minutes", Resource.API_CALLS: "calls"}


@app.command()
@framed
def show(
    project: Annotated[str | None, typer.Argument(help="A project's slug; all without it.", show_default=False)] = None,
    machine: Annotated[str | None, typer.Option(help="The accounts of one machine.")] = None,
    as_json: AsJson = False,
) -> None:
    """Show allocated, used, reserved and available, by account and period."""
    hub = connect()
    machine_id = hub.get(f"/api/v1/machines/{segment(machine)}")["uuid"] if machine else None
    items = hub.get("/api/v1/reports/budgets", project=project, machine=machine_id)["items"]
    if as_json:
        for item in items:
            console.emit(item)
        return
    console.table(
        ("ACCOUNT", "RESOURCE", "PERIOD", "SINCE", "ALLOCATED", "USED", "RESERVED", "AVAILABLE", "UNIT"),
        ((_account(b), b["resource_type"], b["budget_period"], _since_when(b), *_amounts(b), b["unit"]) for b in items),
    )


@app.command("set")
@framed
def set_(
    project: Project,
    amount: Annotated[str, typer.Argument(help="5CAD; a number of minutes or calls.", show_default=False)],
    resource: Annotated[Resource, typer.Option(help="What is budgeted.")] = Resource.MONEY,
    period: Annotated[BudgetPeriod, typer.Option(help="How often it begins anew.")] = BudgetPeriod.TOTAL,
    time_zone: Annotated[str, typer.Option(help="Where days, weeks and months begin.")] = "UTC",
    machine: Annotated[str | None, typer.Option(help="Set a machine's own account instead.")] = None,
    as_json: AsJson = False,
) -> None:
    """Set what a project (`_hub`: the hub, --machine: one machine) may use per period. 0 is a cap."""
    hub = connect()
    number, currency = units.money(amount, "AMOUNT")
    unit = currency if resource is Resource.MONEY else UNIT[resource]
    body: dict[str, object] = {
        "project": project,
        "resource": resource.value,
        "amount": number,
        "unit": unit,
        "period": period.value,
        "time_zone": time_zone,
    }
    if machine:
        body["machine_uuid"] = machine
    said = allocate(hub, project, body)
    if as_json:
        console.emit(said)
    else:
        console.say(f"{said['aggregate_id']} may use {number} {unit} ({period.value})")


def _since_when(item: Json) -> str:
    return "-" if item["budget_period"] == BudgetPeriod.TOTAL else str(item["period_start"])[:10]


def allocate(hub: Hub, project: str, body: Mapping[str, object]) -> Json:
    """Ask for a budget and wait for the answer.

    Raises:
        CliError: It was refused, or nobody answered.
    """
    answer = hub.post("/api/v1/resources/budgets", body)
    said = until(
        hub,
        answer["seq"],
        frozenset({"BudgetAllocated", "BudgetRefused"}),
        SETTLE_S,
        project=project,
        id=answer["uuid"],
    )
    if said["type"] == "BudgetRefused":
        raise CliError(Exit.REFUSED, said["body"]["reason"])
    return said


class By(StrEnum):
    """What usage is summed by."""

    PROJECT = "project"
    MACHINE = "machine"
    MODEL = "model"
    AGENT = "agent"
    TYPE = "type"
    DAY = "day"


@framed
def usage(
    by: Annotated[By, typer.Option(help="What it is summed by.")] = By.PROJECT,
    project: Annotated[str | None, typer.Option("--project", "-p", help="Only of this project.")] = None,
    machine: Annotated[str | None, typer.Option(help="Only of this machine.")] = None,
    since: Annotated[str | None, typer.Option(help="E.g. 24h, 7d, or 2026-11-01T00:00:00Z.")] = None,
    as_json: AsJson = False,
) -> None:
    """Show what was used and what it cost."""
    hub = connect()
    machine_id = hub.get(f"/api/v1/machines/{segment(machine)}")["uuid"] if machine else None
    items = hub.get(
        "/api/v1/resources/usage/summary", by=by.value, project=project, machine=machine_id, since=_since(since)
    )["items"]
    if as_json:
        for item in items:
            console.emit(item)
        return
    console.table(
        (by.value.upper(), "RESOURCE", "AMOUNT", "UNIT", "COST", "RECORDS"),
        (
            (u[by.value], u["resource_type"], u["amount"], u["unit"], console.money(u["cost_cad"]), u["records"])
            for u in items
        ),
    )


def _since(text: str | None) -> str | None:
    if text is None or "T" in text or "-" in text:
        return text
    from datetime import UTC, datetime, timedelta  # noqa: PLC0415  # only with --since

    return (datetime.now(UTC) - timedelta(seconds=units.seconds(text, "--since"))).isoformat()


def _account(budget: Json) -> str:
    return str(budget["machine_uuid"] or (budget["project"] if budget["scope"] == "project" else "_hub"))


def _amounts(budget: Json) -> tuple[str, ...]:
    return tuple(_plain(budget[f"{name}_amount"]) for name in ("allocated", "used", "reserved", "available"))


def _plain(amount: str | None) -> str:
    """An exact amount without the zeros that say nothing; an account without an allocation has no cap."""
    if amount is None:
        return "no cap"
    whole, _, places = amount.partition(".")
    return f"{whole}.{places.rstrip('0').ljust(2, '0')}" if places else whole
