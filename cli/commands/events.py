"""`autovibe events …`"""

import json
from typing import Annotated

import typer

from cli import console, watch
from cli.exits import CliError, Exit
from cli.framing import AsJson, Limit, framed, group
from cli.hub import connect, segment
from cli.printing import line_of_event

app = group("events", "Events: the log that everything else is made from.")

ProjectOption = Annotated[str | None, typer.Option("--project", "-p", help="Only of this project.")]


@app.command()
@framed
def tail(
    project: ProjectOption = None,
    type_name: Annotated[str | None, typer.Option("--type", help="Only of this type.")] = None,
    machine: Annotated[str | None, typer.Option(help="Only those about one machine.")] = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on as they come.")] = False,
    limit: Limit = 20,
    as_json: AsJson = False,
) -> None:
    """Print the last events; with -f, those that come too."""
    hub = connect()
    machine_id = hub.get(f"/api/v1/machines/{segment(machine)}")["uuid"] if machine else None
    shown = list(hub.pages("/api/v1/events", limit, project=project, type=type_name, id=machine_id))
    for event in reversed(shown):
        console.emit(event) if as_json else console.say(line_of_event(event))
    if not follow:
        return
    after = shown[0]["seq"] if shown else hub.get("/api/v1/status")["log"]["seq"]
    for event in watch.events(hub, after, project=project, machine=machine_id):
        if type_name in (None, event["type"]):
            console.emit(event) if as_json else console.say(line_of_event(event))


@app.command()
@framed
def show(
    event: Annotated[str, typer.Argument(help="Sequence number or id.", show_default=False)], as_json: AsJson = False
) -> None:
    """Show one event with all that is known of it."""
    found = connect().get(f"/api/v1/events/{segment(event)}")
    if as_json:
        console.emit(found)
        return
    for field, value in found.items():
        if field != "body":
            console.say(f"{field:<16}{console.printable(str(value))}")
    console.say(console.printable(json.dumps(found["body"], indent=2, ensure_ascii=False)).replace("\\x0a", "\n"))


@app.command()
@framed
def publish(
    type_name: Annotated[str, typer.Argument(metavar="TYPE", help="An event type that the door takes.")],
    body: Annotated[str, typer.Argument(help="Its body, JSON.")] = "{}",
    project: Annotated[str, typer.Option("--project", "-p", help="Whom it is about.")] = "_hub",
    identity: Annotated[str | None, typer.Option("--id", help="The aggregate's id; a new one without it.")] = None,
    as_json: AsJson = False,
) -> None:
    """Knock at the door with any event."""
    try:
        content = json.loads(body)
    except ValueError as error:
        raise CliError(Exit.USAGE, f"BODY is not JSON: {error}") from error
    sent: dict[str, object] = {"project": project, "type": type_name, "body": content}
    if identity:
        sent["id"] = identity
    answer = connect().post("/api/v1/events", sent)
    if as_json:
        console.emit(answer)
    else:
        console.say(f"{type_name} of {answer['uuid']} is event {answer['seq']}")


@app.command()
@framed
def types(as_json: AsJson = False) -> None:
    """List every event type, and which of them you may publish."""
    items = connect().get("/api/v1/events/types")["items"]
    if as_json:
        for item in items:
            console.emit(item)
        return
    console.table(
        ("TYPE", "AGGREGATE", "DOOR", "SAID BY", "WHAT"),
        (
            (t["type"], t["aggregate"], "yes" if t["through_the_door"] else "", ",".join(t["said_by"]), t["summary"])
            for t in items
        ),
    )


@app.command()
@framed
def rejected(project: ProjectOption = None, limit: Limit = 20, as_json: AsJson = False) -> None:
    """List what the door refused, and why."""
    items = connect().get("/api/v1/events/rejected", project=project, limit=limit)["items"]
    if as_json:
        for item in items:
            console.emit(item)
        return
    console.table(
        ("SEQ", "WHEN", "SUBJECT", "CODE", "WHY"),
        (
            (r["seq"], r["rejected_at"][:19], console.first_line(r["subject"], 60), r["problem"]["code"],
             console.first_line(r["problem"]["message"], 100))
            for r in items
        ),
    )  # fmt: skip


@app.command()
@framed
def dead(as_json: AsJson = False) -> None:
    """List what no handler could do after all attempts."""
    items = connect().get("/api/v1/events/dead")["items"]
    if as_json:
        for item in items:
            console.emit(item)
        return
    console.table(
        ("LETTER", "SERVICE", "SUBJECT", "ATTEMPTS", "ERROR"),
        ((d["id"], d["service"], d["subject"], d["attempts"], console.first_line(d["error"], 100)) for d in items),
    )


@app.command()
@framed
def retry(
    letter: Annotated[str, typer.Argument(help="Number of a dead letter.", show_default=False)], as_json: AsJson = False
) -> None:
    """Deliver a dead letter to its handler again."""
    answer = connect().post(f"/api/v1/events/dead/{segment(letter)}/retry", {})
    console.emit(answer) if as_json else console.say(f"delivered again: {answer['subject']}")
