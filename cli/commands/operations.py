"""`autovibe status`, `doctor`, `migrate`, `verify` and `projector …`: for whoever runs the hub."""

import asyncio
from typing import Annotated

import typer

from cli import console
from cli.context import load
from cli.direct import database_url, hub_bus
from cli.exits import CliError, Exit
from cli.framing import AsJson, framed, group
from cli.hub import connect

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
    from services.kit import topology  # noqa: PLC0415
    from services.kit.errors import Refused  # noqa: PLC0415

    context = load()
    url = database_url(context)
    async with hub_bus(context, "autovibe migrate") as bus:
        try:
            if check:
                await topology.check(bus)
                waiting = await asyncio.to_thread(migrations.pending, url)
                if waiting:
                    raise CliError(
                        Exit.FAILED,
                        "not applied yet: " + ", ".join(f"{found.number:04} {found.title}" for found in waiting),
                        remedy="autovibe migrate",
                    )
                return []
            applied = await asyncio.to_thread(migrations.apply, url)
            return [f"applied {found.number:04} {found.title}" for found in applied] + await topology.apply(bus)
        except (Refused, migrations.MigrationError) as error:
            raise CliError(Exit.FAILED, str(error)) from error


@framed
def verify(as_json: AsJson = False) -> None:
    """Prove that the log is whole, that the tables hold all of it, and that they are what the log folds to."""
    raise typer.Exit(int(asyncio.run(_verify(as_json=as_json))))


async def _verify(*, as_json: bool) -> Exit:
    from services.projector.verify import verify as prove  # noqa: PLC0415

    context = load()
    async with hub_bus(context, "autovibe verify") as bus:
        report = await prove(bus.log, database_url(context))
    if as_json:
        console.emit(report.json())
    else:
        for check in report.checks:
            mark = console.paint("ok  ", console.GREEN) if check.ok else console.paint("FAIL", console.RED)
            console.say(f"{mark} {check.name}: {check.detail}")
    return Exit.OK if report.ok else Exit.FAILED


@projector.command("status")
@framed
def projector_status(as_json: AsJson = False) -> None:
    """Show how far the projector is, and why it stopped if it did."""
    from services.projector.status import status as ask  # noqa: PLC0415

    async def asked() -> dict[str, object]:
        context = load()
        async with hub_bus(context, "autovibe projector") as bus:
            return (await ask(bus.log, database_url(context))).json()

    found = asyncio.run(asked())
    if as_json:
        console.emit(found)
        return
    for name, value in found.items():
        console.say(f"{name:<16}{console.printable(str(value))}")


@projector.command("rebuild")
@framed
def projector_rebuild(
    force: Annotated[
        bool, typer.Option("--force", help="Swap even if the new tables differ from the old ones.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Make all tables anew beside the old ones, compare, and swap."""
    raise typer.Exit(int(asyncio.run(_rebuild(force=force, as_json=as_json))))


async def _rebuild(*, force: bool, as_json: bool) -> Exit:
    from services.projector.rebuild import rebuild  # noqa: PLC0415

    context = load()
    async with hub_bus(context, "autovibe rebuild") as bus:
        report = await rebuild(bus.log, database_url(context), force=force)
    if as_json:
        console.emit(report.json())
    else:
        console.say(report.text())
    return Exit.OK if report.swapped else Exit.REFUSED
