"""`autovibe status`, `doctor`, `migrate`, `verify` and `projector …`: for whoever runs the hub."""

import asyncio
import sys
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from cli import console
from cli.context import load
from cli.direct import database_url, hub_bus
from cli.exits import CliError, Exit
from cli.framing import AsJson, framed, group
from cli.hub import connect

if TYPE_CHECKING:
    from collections.abc import Sequence

    from schema.migrations import Migration
    from services.projector.rebuild import Report

projector = group("projector", "The projector: how far the tables are, and making them anew from the log.")


@framed
def status(as_json: AsJson = False) -> None:
    """Show whether the hub works: the log, the tables, the machines."""
    hub = connect()
    found = hub.get("/api/v1/status")
    if as_json:
        console.emit(found)
        return
    console.say(f"hub         {hub.context.url}")
    console.say(f"log         at event {found['log']['seq']}")
    console.say(f"read model  at event {found['read_model']['seq']}, {found['read_model']['behind']} behind")
    machines = ", ".join(f"{count} {phase}" for phase, count in sorted(found["machines"].items())) or "none yet"
    console.say(f"machines    {machines}")


@framed
def doctor(as_json: AsJson = False) -> None:
    """Look at this host and at the hub, and say what is missing and what helps."""
    from cli.diagnosis import findings  # noqa: PLC0415  # imports what may not be there

    unwell = 0
    for finding in findings():
        unwell += not finding.ok
        if as_json:
            console.emit({"what": finding.what, "ok": finding.ok, "detail": finding.detail, "remedy": finding.remedy})
            continue
        mark = console.paint("ok  ", console.GREEN) if finding.ok else console.paint("FAIL", console.RED)
        console.say(f"{mark} {finding.what:<16} {console.printable(finding.detail)}")
        if finding.remedy:
            console.say(f"     {'':<16} try: {finding.remedy}")
    if unwell:
        raise typer.Exit(int(Exit.FAILED))


@framed
def migrate(
    check: Annotated[bool, typer.Option("--check", help="Only compare; change nothing.")] = False,
    as_json: AsJson = False,
) -> None:
    """Bring streams and tables to what this version needs; nothing is lost by it."""
    done = asyncio.run(_migrate(check=check))
    if as_json:
        console.emit({"done": done})
    else:
        for line in done or ["nothing to do"]:
            console.say(line)


async def _migrate(*, check: bool) -> list[str]:
    from schema import migrations  # noqa: PLC0415  # psycopg and nats only where they are used
    from services.kit import durable, topology  # noqa: PLC0415
    from services.kit.errors import KitError  # noqa: PLC0415
    from services.kit.settings import TopologySettings  # noqa: PLC0415

    context = load()
    url = database_url(context)
    async with hub_bus(context, "autovibe migrate") as bus:
        settings = TopologySettings(nats_url=context.nats_url)
        try:
            await durable.check(settings)
            if check:
                await topology.check(bus, settings.sizes(), settings.nats_replicas)
                _refuse_pending(await asyncio.to_thread(migrations.pending, url))
                return []
            applied = await asyncio.to_thread(migrations.apply, url)
            done = [f"applied {found.number:04} {found.title}" for found in applied]
            return done + await topology.apply(bus, settings.sizes(), settings.nats_replicas)
        except (KitError, migrations.MigrationError) as error:
            raise CliError(Exit.FAILED, str(error)) from error


def _refuse_pending(waiting: "Sequence[Migration]") -> None:
    if waiting:
        missing = ", ".join(f"{found.number:04} {found.title}" for found in waiting)
        raise CliError(Exit.FAILED, f"not applied yet: {missing}", remedy="autovibe migrate")


@framed
def verify(as_json: AsJson = False) -> None:
    """Prove that the log is whole, that the tables hold all of it, and that they are what the log folds to."""
    raise typer.Exit(int(asyncio.run(_verify(as_json=as_json))))


async def _verify(*, as_json: bool) -> Exit:
    from services.projector.rebuild import verify as prove  # noqa: PLC0415

    context = load()
    async with hub_bus(context, "autovibe verify") as bus:
        report = await prove(bus.log, database_url(context), _progress if not as_json else None)
    _print(report, as_json=as_json)
    return Exit.OK if report.ok else Exit.FAILED


def _progress(seq: int, end: int) -> None:
    if sys.stderr.isatty():
        sys.stderr.write(f"\r{seq} of {end} events" + ("\r\x1b[K" if seq >= end else ""))
        sys.stderr.flush()


def _print(report: "Report", *, as_json: bool) -> None:
    if as_json:
        console.emit({**asdict(report), "ok": report.ok})
        return
    good, bad = console.paint("ok  ", console.GREEN), console.paint("FAIL", console.RED)
    if not report.problems:
        console.say(f"{good} the log is whole up to event {report.position}; head of the chain {report.hash[:16]}…")
    for problem in report.problems:
        console.say(f"{bad} {console.printable(problem)}")
    if not report.differences:
        console.say(f"{good} every table equals the fold of the log")
    for difference in report.differences:
        console.say(f"{bad} {console.printable(str(difference))}")


@projector.command("status")
@framed
def projector_status(as_json: AsJson = False) -> None:
    """Show how far the projector is, and why it stopped if it did."""
    from services.projector.status import status as ask  # noqa: PLC0415

    async def asked() -> dict[str, object]:
        context = load()
        async with hub_bus(context, "autovibe projector") as bus:
            found = await ask(bus.log, database_url(context))
            return {**asdict(found), "lag": found.lag}

    found = asyncio.run(asked())
    if as_json:
        console.emit(found)
        return
    for name, value in found.items():
        if value is not None:
            console.say(f"{name:<16}{console.printable(str(value))}")


@projector.command("rebuild")
@framed
def projector_rebuild(
    accept_differences: Annotated[
        bool, typer.Option("--accept-differences", help="Swap even if the new tables differ from the old ones.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Make all tables anew beside the old ones, compare, and swap."""
    raise typer.Exit(int(asyncio.run(_rebuild(accept_differences=accept_differences, as_json=as_json))))


async def _rebuild(*, accept_differences: bool, as_json: bool) -> Exit:
    from services.projector.rebuild import rebuild  # noqa: PLC0415

    context = load()
    async with hub_bus(context, "autovibe rebuild") as bus:
        progress = None if as_json else _progress
        report = await rebuild(bus.log, database_url(context), accept_differences=accept_differences, progress=progress)
    _print(report, as_json=as_json)
    if not as_json:
        console.say(
            "the new tables are in place" if report.swapped else "nothing was swapped: see --accept-differences"
        )
    return Exit.OK if report.swapped else Exit.REFUSED
