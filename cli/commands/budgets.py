"""`autovibe budget …` and `autovibe usage`."""

import re
from collections.abc import Iterator, Mapping
from enum import StrEnum
from typing import Annotated

import typer

from cli import console, units
from cli.exits import CliError, Exit
from cli.framing import AsJson, Project, framed, group
from cli.hub import Hub, Json, connect, segment
from cli.watch import until
from events.words import BudgetPeriod, CarryOver, OnExhausted, Resource

app = group("budget", "Budgets: what the hub, a project or a machine may use.")

SETTLE_S = 15.0


UNIT = {
    Resource.MONEY: "CAD",
    Resource.TIME: "minutes",
    Resource.API_CALLS: "calls",
    Resource.TOKENS: "tokens",
    Resource.CPU: "cpu_hours",
    Resource.MEMORY: "gb_hours",
    Resource.STORAGE: "gb_hours",
    Resource.NETWORK: "gb",
}
"""As `events.budget.UNIT_OF`, without what it takes to import that."""


UNASKED = frozenset({"cpu", "memory", "storage", "network"})
"""What is always counted and mostly not capped: shown in the table once somebody has capped it; `--json` has all."""


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
    columns = (
        "ACCOUNT",
        "RESOURCE",
        "PERIOD",
        "SINCE",
        "ALLOCATED",
        "USED",
        "RESERVED",
        "AVAILABLE",
        "UNIT",
        "FORECAST",
    )
    console.table(
        columns,
        (
            (_account(b), b["resource_type"], b["budget_period"], _since_when(b), *_amounts(b), b["unit"], _forecast(b))
            for b in items
            if b["allocated_amount"] is not None or b["resource_type"] not in UNASKED
        ),
    )
    for item in items:
        for warning in _warnings(item):
            console.note(console.paint(f"· {warning}", console.DIM))


@app.command("set")
@framed
def set_(
    project: Project,
    amount: Annotated[str, typer.Argument(help="5CAD; a number in the resource's unit.", show_default=False)],
    resource: Annotated[Resource, typer.Option(help="What is budgeted.")] = Resource.MONEY,
    period: Annotated[BudgetPeriod, typer.Option(help="How often it begins anew.")] = BudgetPeriod.TOTAL,
    time_zone: Annotated[str, typer.Option(help="Where days, weeks and months begin.")] = "UTC",
    soft: Annotated[str | None, typer.Option(help="Warn beyond it; nothing is refused.", show_default=False)] = None,
    threshold: Annotated[list[int] | None, typer.Option(help="Percentages to warn at; may be repeated.")] = None,
    carry: Annotated[CarryOver, typer.Option(help="What of a period's balance the next begins with.")] = CarryOver.NONE,
    on_exhausted: Annotated[
        OnExhausted, typer.Option(help="What becomes of machines whose calls find it used up.")
    ] = OnExhausted.PARK,
    machine: Annotated[str | None, typer.Option(help="Set a machine's own account instead.")] = None,
    as_json: AsJson = False,
) -> None:
    """Set what a project (`_hub`: the hub, --machine: one machine) may use per period. 0 is a cap."""
    number, unit = _amount(amount, resource)
    body: dict[str, object] = {
        **_of(project, machine, resource, number, unit),
        "period": period.value,
        "time_zone": time_zone,
        "carry": carry.value,
        "on_exhausted": on_exhausted.value,
    }
    if soft is not None:
        body["soft"] = _amount(soft, resource, "--soft")[0]
    if threshold:
        body["thresholds"] = sorted(set(threshold))
    said = allocate(connect(), project, body)
    if as_json:
        console.emit(said)
    else:
        console.say(f"{said['aggregate_id']} may use {number} {unit} ({period.value})")


@app.command("top-up")
@framed
def top_up(
    project: Project,
    amount: Annotated[str, typer.Argument(help="5CAD; a number in the resource's unit.", show_default=False)],
    resource: Annotated[Resource, typer.Option(help="What is budgeted.")] = Resource.MONEY,
    period: Annotated[BudgetPeriod, typer.Option(help="Which allocation it is added to.")] = BudgetPeriod.TOTAL,
    machine: Annotated[str | None, typer.Option(help="Add to a machine's own account instead.")] = None,
    as_json: AsJson = False,
) -> None:
    """Add to what may be used in the present period; machines that parked for want of it go on."""
    number, unit = _amount(amount, resource)
    body = {**_of(project, machine, resource, number, unit), "period": period.value}
    said = allocate(connect(), project, body, path="/api/v1/resources/budgets/top-up")
    if as_json:
        console.emit(said)
    else:
        console.say(f"{said['aggregate_id']} may use {_plain(said['body']['amount'])} {unit} now ({period.value})")


def _amount(text: str, resource: Resource, option: str = "AMOUNT") -> tuple[str, str]:
    """Return the number and its unit; `2h` is minutes of time.

    Raises:
        CliError: It is none.
    """
    if resource is Resource.TIME and text[-1:] in {"m", "h", "d"}:
        return f"{units.seconds(text, option) / 60:.9f}".rstrip("0").rstrip("."), UNIT[resource]
    if resource is Resource.MONEY:
        return units.money(text, option)
    if re.fullmatch(r"\d+(\.\d+)?", text.strip()) is None:
        said = f"{option} {text!r} is not a number: {resource.value} is budgeted in {UNIT[resource]}"
        raise CliError(Exit.USAGE, said, remedy=f"{option} 100, in {UNIT[resource]}")
    return text.strip(), UNIT[resource]


def _of(project: str, machine: str | None, resource: Resource, number: str, unit: str) -> dict[str, object]:
    body: dict[str, object] = {"project": project, "resource": resource.value, "amount": number, "unit": unit}
    return body | {"machine_uuid": machine} if machine else body


def _forecast(item: Json) -> str:
    """Say when it runs out at the present rate, or what the period ends at."""
    if item["runs_out_at"]:
        return f"runs out {str(item['runs_out_at'])[:16].replace('T', ' ')}"
    if item["forecast_amount"] is not None:
        return f"ends at {_plain(item['forecast_amount'])}"
    return "-"


def _warnings(item: Json) -> Iterator[str]:
    """Yield what a running period warns of; one that is over has no forecast, and nobody can mend it."""
    if item["period_end"] and item["forecast_amount"] is None:
        return
    where = f"{_account(item)}: {item['resource_type']} ({item['budget_period']})"
    if item["crossed"]:
        yield f"{where} has reached {item['crossed'][-1]} % of what is allocated"
    if item["soft_reached"]:
        yield f"{where} is beyond its soft limit of {_plain(item['soft_amount'])} {item['unit']}"


def _since_when(item: Json) -> str:
    return "-" if item["budget_period"] == BudgetPeriod.TOTAL else str(item["period_start"])[:10]


def allocate(hub: Hub, project: str, body: Mapping[str, object], *, path: str = "/api/v1/resources/budgets") -> Json:
    """Ask for a budget and wait for the answer.

    Raises:
        CliError: It was refused, or nobody answered.
    """
    answer = hub.post(path, body)
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
