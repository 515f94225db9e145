"""`autovibe checkpoint …`"""

import sys
from pathlib import Path
from typing import Annotated

import typer

from cli import console, store, watch
from cli.exits import CliError, Exit
from cli.framing import AsJson, Limit, Project, framed, group
from cli.hub import Json, connect, segment
from cli.tree import drawn

app = group("checkpoint", "Checkpoints: the tree of what machines left behind.")

Checkpoint = Annotated[str, typer.Argument(help="A checkpoint's id, or a unique prefix of it.", show_default=False)]
CAPTURE_S = 90.0


@app.command("ls")
@framed
def list_(
    project: Annotated[str | None, typer.Option("--project", "-p", help="Only of this project.")] = None,
    machine: Annotated[str | None, typer.Option(help="Only those of one machine.")] = None,
    limit: Limit = 50,
    as_json: AsJson = False,
) -> None:
    """List checkpoints, newest first."""
    hub = connect()
    machine_id = hub.get(f"/api/v1/machines/{segment(machine)}")["uuid"] if machine else None
    items = hub.pages("/api/v1/checkpoints", limit, project=project, machine=machine_id)
    if as_json:
        for item in items:
            console.emit(item)
        return
    console.table(
        ("CHECKPOINT", "PROJECT", "TYPE", "CONTEXT", "SIZE", "VERIFIED", "CREATED"),
        (
            (
                c["uuid"],
                c["project"],
                c["checkpoint_type"],
                c["creation_context"],
                console.size(c["size_bytes"]),
                c["verification_status"],
                c["created_at"][:19],
            )
            for c in items
        ),
    )


@app.command()
@framed
def tree(project: Project, as_json: AsJson = False) -> None:
    """Draw the checkpoint tree of a project: which goal led from where to where, and what it cost."""
    nodes: list[Json] = connect().get("/api/v1/checkpoints/tree", project=project)  # type: ignore[assignment]  # a JSON array
    if as_json:
        for node in nodes:
            console.emit(node)
        return
    for line in drawn(nodes):
        console.say(line)


@app.command()
@framed
def show(checkpoint: Checkpoint, as_json: AsJson = False) -> None:
    """Show one checkpoint."""
    found = connect().get(f"/api/v1/checkpoints/{segment(checkpoint)}")
    if as_json:
        console.emit(found)
        return
    for field, value in found.items():
        if value not in (None, "", [], {}):
            console.say(f"{field:<24}{console.printable(str(value))}")


@app.command()
@framed
def take(
    machine: Annotated[str, typer.Argument(help="A running machine's id.", show_default=False)],
    description: Annotated[str, typer.Option("--description", "-m", help="For humans.")] = "",
    as_json: AsJson = False,
) -> None:
    """Capture a running machine now."""
    hub = connect()
    found = hub.get(f"/api/v1/machines/{segment(machine)}")
    answer = hub.post("/api/v1/checkpoints", {"machine_uuid": found["uuid"], "description": description})
    said = watch.until(
        hub,
        answer["seq"],
        frozenset({"CheckpointTaken", "CheckpointFailed"}),
        CAPTURE_S,
        project=found["project"],
        id=answer["uuid"],
    )
    if said["type"] == "CheckpointFailed":
        raise CliError(Exit.FAILED, f"no checkpoint was taken: {said['body']['reason']}")
    console.emit(said) if as_json else console.say(answer["uuid"])


@app.command()
@framed
def diff(
    older: Checkpoint,
    newer: Annotated[
        str | None, typer.Argument(help="Compared with this one; without it, OLDER with its parent.")
    ] = None,
    stat: Annotated[bool, typer.Option("--stat", help="Only which files, not what in them.")] = False,
    as_json: AsJson = False,
) -> None:
    """Show what changed between two checkpoints."""
    found = connect().get("/api/v1/checkpoints/diff", old=older, new=newer, stat=1 if stat else None)
    if as_json:
        console.emit(found)
        return
    for change in found["changes"]:
        sign = {"added": "A", "removed": "D", "changed": "M"}[change["kind"]]
        console.say(f"{sign} {console.printable(change['path'])}")
    for line in str(found.get("text") or "").splitlines():
        console.say(_coloured(console.printable(line)))
    if found.get("truncated"):
        console.note("the text is longer than the hub sends; checkpoint export gives the whole files")


@app.command()
@framed
def export(
    checkpoint: Checkpoint,
    to: Annotated[str, typer.Option("--to", help="A new or empty directory, a .tar file, or - for a tar on stdout.")],
    as_json: AsJson = False,
) -> None:
    """Write a checkpoint to your disk: a directory gets the workspace, a tar the agent's home too."""
    hub = connect()
    found = hub.get(f"/api/v1/checkpoints/{segment(checkpoint)}")
    digest = str(found["file_manifest"]["digest"])
    if to == "-":
        if sys.stdout.isatty():
            raise CliError(Exit.USAGE, "a tar is no text for a terminal", remedy="--to FILE.tar, or pipe it on")
        store.export_tar(hub.context, digest, sys.stdout.buffer)
        return
    target = Path(to)
    if target.exists() and (target.is_file() or any(target.iterdir())):
        raise CliError(Exit.USAGE, f"--to {to!r} is there already", remedy="name one that does not exist yet")
    if to.endswith(".tar"):
        with target.open("xb") as out:
            store.export_tar(hub.context, digest, out)
    else:
        store.export_directory(hub.context, digest, target)
    if as_json:
        console.emit({"checkpoint": found["uuid"], "to": to})
    else:
        console.say(f"exported {found['uuid']} to {to}")


@app.command()
@framed
def restore(checkpoint: Checkpoint, as_json: AsJson = False) -> None:
    """Make a project's next goal start from this checkpoint. History stays; nothing that runs is touched."""
    hub = connect()
    found = hub.get(f"/api/v1/checkpoints/{segment(checkpoint)}")
    path = f"/api/v1/projects/{segment(found['project'])}"
    before = hub.get(path)["current_checkpoint_uuid"]
    answer = hub.post(path, {"current_checkpoint_id": found["uuid"]}, method="PATCH")
    if as_json:
        console.emit({**answer, "before": before, "current": found["uuid"]})
    else:
        console.say(f"project {found['project']} goes on from {found['uuid']}")
        console.note(f"back again with: autovibe checkpoint restore {before}")


@app.command()
@framed
def pin(checkpoint: Checkpoint, as_json: AsJson = False) -> None:
    """Never drop a checkpoint."""
    _mark(checkpoint, "pin", as_json=as_json)


@app.command()
@framed
def unpin(checkpoint: Checkpoint, as_json: AsJson = False) -> None:
    """Let retention drop a checkpoint again."""
    _mark(checkpoint, "unpin", as_json=as_json)


def _mark(checkpoint: str, verb: str, *, as_json: bool) -> None:
    answer = connect().post(f"/api/v1/checkpoints/{segment(checkpoint)}/{verb}", {})
    console.emit(answer) if as_json else console.say(f"{verb}ned {answer['uuid']}")


def _coloured(line: str) -> str:
    if line.startswith(("+++", "---")):
        return console.paint(line, console.BOLD)
    if line.startswith("+"):
        return console.paint(line, console.GREEN)
    if line.startswith("-"):
        return console.paint(line, console.RED)
    return console.paint(line, console.BLUE) if line.startswith("@@") else line
