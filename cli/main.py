"""The `autovibe` command: its groups on one screen. Each command's file is imported with it, its heavy parts when used."""

from cli.commands import budgets, checkpoints, credentials, demo, dev, events, machines, operations, projects, run
from cli.framing import group

app = group("autovibe", "Run AI coding agents in isolated machines: checkpointed, held inside budgets, all in one log.")

app.command("dev")(dev.dev)
app.command("demo")(demo.demo)
app.add_typer(projects.app)
app.command("run")(run.run)
app.add_typer(machines.app)
app.add_typer(checkpoints.app)
app.add_typer(budgets.app)
app.command("usage")(budgets.usage)
app.add_typer(events.app)
app.add_typer(credentials.app)
app.add_typer(operations.projector)
for command in (operations.status, operations.verify, operations.doctor, operations.migrate):
    app.command(command.__name__)(command)


def main() -> None:
    app()
