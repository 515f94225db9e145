"""`autovibe project …`"""

from pathlib import Path
from typing import Annotated

import typer

from cli import console, units, watch
from cli.commands.budgets import allocate
from cli.exits import CliError, Exit
from cli.framing import AsJson, Limit, Project, framed, group
from cli.hub import Hub, Json, connect, segment
from cli.store import upload_tree

START_S = 60.0
"""How long the first checkpoint may take; it is already uploaded by then."""

app = group("project", "Projects: where machines start from and what they may spend.")


@app.command()
@framed
def create(
    name: Annotated[str, typer.Argument(help="Slug: a-z, 0-9 and -, at most 63.", show_default=False)],
    source: Annotated[str | None, typer.Option("--from", help="Directory that becomes the first checkpoint.")] = None,
    budget: Annotated[str | None, typer.Option(help="What it may spend in all, e.g. 5CAD.")] = None,
    greediness: Annotated[str, typer.Option(help="0.0 to 1.0: its weight when budgets are shared.")] = "0.5",
    description: Annotated[str, typer.Option(help="For humans.")] = "",
    checkpoint_every: Annotated[str | None, typer.Option(help="While files change, e.g. 300s.")] = None,
    as_json: AsJson = False,
) -> None:
    """Create a project, from a directory or empty."""
    hub = connect()
    amount = units.money(budget, "--budget") if budget else None
    if amount and amount[1] != "CAD":
        raise CliError(Exit.USAGE, f"--budget {budget!r}: budgets are in CAD")
    body: dict[str, object] = {"name": name, "greediness": units.greediness(greediness), "description": description}
    if checkpoint_every:
        body["checkpoint_policy"] = {"interval_s": units.seconds(checkpoint_every, "--checkpoint-every")}
    if source is not None:
        if not Path(source).is_dir():
            raise CliError(Exit.USAGE, f"--from {source!r} is not a directory that exists")
        _refuse_if_there(hub, name)
        uploaded = upload_tree(hub.context, source)
        body["genesis"] = uploaded.digest
        if not as_json:
            console.note(f"captured {uploaded.file_count} files, {console.size(uploaded.size_bytes)}")
    answer = hub.post("/api/v1/projects", body)
    if amount:
        _allocate(hub, name, *amount)
    project = _when_it_starts(hub, name, answer["seq"])
    if as_json:
        console.emit(project)
    else:
        console.say(f"project {name} starts from checkpoint {project['current_checkpoint_uuid']}")


@app.command("ls")
@framed
def list_(limit: Limit = 50, as_json: AsJson = False) -> None:
    """List projects."""
    items = connect().pages("/api/v1/projects", limit)
    if as_json:
        for item in items:
            console.emit(item)
        return
    rows = [
        (p["name"], p["status"], p["greediness"], p["current_checkpoint_uuid"], p["created_at"][:19]) for p in items
    ]
    console.table(("NAME", "STATUS", "GREEDINESS", "CURRENT CHECKPOINT", "CREATED"), rows)


@app.command()
@framed
def show(name: Project, as_json: AsJson = False) -> None:
    """Show one project."""
    project = connect().get(f"/api/v1/projects/{segment(name)}")
    if as_json:
        console.emit(project)
        return
    for field in ("name", "status", "description", "greediness", "initial_checkpoint_uuid", "current_checkpoint_uuid"):
        console.say(f"{field:<24}{console.printable(str(project[field]))}")


@app.command("set")
@framed
def set_(
    name: Project,
    greediness: Annotated[str | None, typer.Option(help="0.0 to 1.0.")] = None,
    description: Annotated[str | None, typer.Option(help="For humans.")] = None,
    paused: Annotated[bool | None, typer.Option("--paused/--active", help="Whether it takes requests.")] = None,
    as_json: AsJson = False,
) -> None:
    """Change a project's settings."""
    body: dict[str, object] = {}
    if greediness is not None:
        body["greediness"] = units.greediness(greediness)
    if description is not None:
        body["description"] = description
    if paused is not None:
        body["status"] = "paused" if paused else "active"
    if not body:
        raise CliError(Exit.USAGE, "nothing to set", remedy="--greediness, --description, --paused or --active")
    _done(connect().post(f"/api/v1/projects/{segment(name)}", body, method="PATCH"), as_json=as_json)


@app.command()
@framed
def archive(
    name: Project, reason: Annotated[str, typer.Option(help="Why; stands in the log.")] = "", as_json: AsJson = False
) -> None:
    """Take no more requests for a project; its history stays."""
    _done(connect().post(f"/api/v1/projects/{segment(name)}/archive", {"reason": reason}), as_json=as_json)


def _refuse_if_there(hub: Hub, name: str) -> None:
    """Before a directory is read and sent for nothing; the door decides all the same."""
    try:
        hub.get(f"/api/v1/projects/{segment(name)}")
    except CliError as error:
        if error.exit_code is not Exit.NOT_FOUND:
            raise
        return
    raise CliError(Exit.REFUSED, f"project {name} exists already")


def _allocate(hub: Hub, name: str, amount: str, unit: str) -> None:
    """A project whose budget was not set has no cap: that must not pass unsaid."""
    try:
        allocate(hub, name, {"project": name, "amount": amount, "unit": unit})
    except CliError as error:
        message = f"project {name} is there, but without its budget: {error.message}"
        remedy = f"autovibe budget set {name} AMOUNT"
        raise CliError(error.exit_code, message, remedy=remedy, problem=error.problem) from error


def _done(answer: dict[str, object], *, as_json: bool) -> None:
    if as_json:
        console.emit(answer)
    else:
        console.say(f"done, event {answer['seq']}")


def _when_it_starts(hub: Hub, name: str, seq: int) -> Json:
    """Wait until the project has its first checkpoint: from then on machines can start."""
    said = watch.until(hub, seq, frozenset({"ProjectAdvanced", "CheckpointFailed"}), START_S, project=name)
    if said["type"] == "CheckpointFailed":
        raise CliError(Exit.FAILED, f"project {name} has no first checkpoint: {said['body'].get('reason', '')}")
    return hub.get(f"/api/v1/projects/{segment(name)}", at_least_seq=said["seq"])
