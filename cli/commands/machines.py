"""`autovibe machine …`"""

from collections.abc import Iterator
from typing import Annotated

import typer

from cli import console, watch
from cli.framing import AsJson, Limit, framed, group
from cli.hub import Json, connect, segment
from cli.printing import how_to_go_on, line_of_output

app = group("machine", "Machines: what runs, what ran, what it printed.")

OWN_STREAM = frozenset({"claude_api", "claude_code", "qwen_coder"})
"""Types of machine whose agent speaks a stream for programs; what the others print is for people as it is."""

Machine = Annotated[str, typer.Argument(help="A machine's id, or a unique prefix of it.", show_default=False)]


@app.command("ls")
@framed
def list_(
    project: Annotated[str | None, typer.Option("--project", "-p", help="Only of this project.")] = None,
    status: Annotated[
        str | None, typer.Option(help="spawning, active, working, checkpointing, parked, terminated.")
    ] = None,
    limit: Limit = 50,
    as_json: AsJson = False,
) -> None:
    """List machines, newest first."""
    items = connect().pages("/api/v1/machines", limit, project=project, status=status)
    if as_json:
        for item in items:
            console.emit(item)
        return
    rows = (
        (
            m["uuid"],
            m["project"],
            m["machine_type"],
            m["phase"],
            m["outcome"] or _held(m),
            m["checkpoint_count"],
            m["original_prompt"],
        )
        for m in items
    )
    console.table(
        ("MACHINE", "PROJECT", "TYPE", "PHASE", "OUTCOME/HOLD", "CHECKPOINTS", "GOAL"),
        ((*row[:-1], console.first_line(row[-1], 48)) for row in rows),
    )


def _held(machine: Json) -> str | None:
    """What holds a machine and until when, in a word or two."""
    if not machine["holds"]:
        return None
    until = f" until {machine['held_until'][:19]}" if machine["held_until"] else ""
    return ", ".join(machine["holds"]) + until


@app.command()
@framed
def show(machine: Machine, as_json: AsJson = False) -> None:
    """Show one machine: where it is, what it used, how it ended."""
    found = connect().get(f"/api/v1/machines/{segment(machine)}")
    if as_json:
        console.emit(found)
        return
    for field in (
        "uuid", "project", "machine_type", "status", "phase", "outcome", "error_message", "epoch", "hypervisor", "node",
        "vm_id", "parent_checkpoint_uuid", "last_checkpoint_uuid", "checkpoint_count", "current_progress",
        "holds", "hold_reason", "held_until", "model", "resource_constraints", "resource_usage", "file_modifications",
        "spawned_at", "terminated_at", "original_prompt",
    ):  # fmt: skip
        value = found[field]
        if value not in (None, "", [], {}):
            console.say(f"{field:<24}{console.printable(str(value))}")
    if found["phase"] == "parked" and found["holds"]:
        held = {"hold": found["holds"][0], "reason": found["hold_reason"], "until": found["held_until"]}
        for line in how_to_go_on(found["project"], found["uuid"], held):
            console.note(line)


@app.command()
@framed
def logs(
    machine: Machine,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until the machine ends.")] = False,
    raw: Annotated[bool, typer.Option("--raw", help="The agent's own stream as it came.")] = False,
    as_json: AsJson = False,
) -> None:
    """Print what a machine printed; of an AI agent, what people read of it."""
    hub = connect()
    found = hub.get(f"/api/v1/machines/{segment(machine)}")
    own_stream = raw and found["machine_type"] in OWN_STREAM
    lines = watch.output(hub, found["uuid"], follow=follow, raw=own_stream)
    if raw and not as_json:
        _print_raw(lines)
        return
    for line in lines:
        if as_json:
            console.emit(line)
        else:
            console.say(line_of_output(line))


def _print_raw(lines: Iterator[Json]) -> None:
    """Print lines as they came, those in several pieces as one; nothing that is the hub's."""
    pieces: list[str] = []
    for line in lines:
        if line["s"] == "agent":
            continue
        pieces.append(str(line["t"]))
        if not line.get("more"):
            console.say(console.printable("".join(pieces)))
            pieces.clear()


@app.command()
@framed
def stop(
    machine: Machine, reason: Annotated[str, typer.Option(help="Why; stands in the log.")] = "", as_json: AsJson = False
) -> None:
    """End a machine, whatever it is doing; it is sealed in a final checkpoint first."""
    answer = connect().post(f"/api/v1/machines/{segment(machine)}/stop", {"reason": reason})
    if as_json:
        console.emit(answer)
    else:
        console.say(f"machine {answer['uuid']} was asked to stop, event {answer['seq']}")


@app.command()
@framed
def restore(
    machine: Machine,
    checkpoint: Annotated[str, typer.Argument(help="Checkpoint to go on from.", show_default=False)],
    as_json: AsJson = False,
) -> None:
    """Make a live machine go on from another checkpoint; a safety checkpoint is taken first."""
    hub = connect()
    target = hub.get(f"/api/v1/checkpoints/{segment(checkpoint)}")
    answer = hub.post(f"/api/v1/machines/{segment(machine)}/restore", {"checkpoint_id": target["uuid"]})
    if as_json:
        console.emit(answer)
    else:
        console.say(f"machine {answer['uuid']} goes on from {target['uuid']}, event {answer['seq']}")
