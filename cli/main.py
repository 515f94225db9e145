"""The `autovibe` command: its groups on one screen. Each command's file is imported with it, its heavy parts when used."""

from typing import Annotated

import typer

from cli import console
from cli.commands import (
    budgets,
    checkpoints,
    credentials,
    demo,
    dev,
    events,
    machines,
    operations,
    prices,
    projects,
    run,
)
from cli.framing import group

app = group("autovibe", "Run goals in isolated machines: checkpointed, held inside budgets, all in one log.")


def _version(asked: bool) -> None:
    if asked:
        from importlib.metadata import version  # noqa: PLC0415  # only here, and not for nothing

        console.say(f"autovibe {version('autovibe')}")
        raise typer.Exit


@app.callback()
def root(
    _: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")] = False,
) -> None:
    """Options of no command."""


app.command("dev")(dev.dev)
app.command("demo")(demo.demo)
app.add_typer(projects.app)
app.command("run")(run.run)
app.add_typer(machines.app)
app.add_typer(checkpoints.app)
app.add_typer(budgets.app)
app.command("usage")(budgets.usage)
app.add_typer(prices.app)
app.add_typer(events.app)
app.add_typer(credentials.app)
app.add_typer(operations.projector)
for command in (operations.status, operations.verify, operations.doctor, operations.migrate):
    app.command(command.__name__)(command)


def main() -> None:
    app()
