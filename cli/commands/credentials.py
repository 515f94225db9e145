"""`autovibe credentials …`"""

import os
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from cli import console, units
from cli.exits import CliError, Exit
from cli.framing import AsJson, framed, group
from cli.hub import connect, segment
from events.words import Role

app = group("credentials", "Credentials: who may speak on the bus or over HTTP.")


class Kind(StrEnum):
    """What a credential opens."""

    CLIENT = "client"
    API_KEY = "api_key"
    OPERATOR = "operator"


def inbox_prefix(kind: Kind, role: Role) -> str:
    """Return the inbox prefix that a client must connect with to hear answers; empty: the usual one is its own."""
    return f"_INBOX_{role.value}" if kind is Kind.OPERATOR and role is not Role.ADMIN else ""


@app.command()
@framed
def create(
    name: Annotated[str, typer.Argument(help="Whose it is; stands in events as actor.", show_default=False)],
    kind: Annotated[Kind, typer.Option(help="client: a NATS creds file; api_key: HTTP.")] = Kind.CLIENT,
    project: Annotated[list[str] | None, typer.Option("--project", "-p", help="Good for; a client has one.")] = None,
    role: Annotated[Role, typer.Option(help="viewer reads; operator reads and writes.")] = Role.OPERATOR,
    ttl: Annotated[str, typer.Option(help="How long it is good, e.g. 12h, 30d.")] = "30d",
    out: Annotated[str | None, typer.Option(help="File for the creds; NAME.creds without it.")] = None,
    as_json: AsJson = False,
) -> None:
    """Make a credential. Its secret is shown or written this once."""
    target = Path(out or f"{name}.creds") if kind is not Kind.API_KEY else None
    if target is not None and target.exists():
        raise CliError(Exit.USAGE, f"{target} exists already", remedy="name another file with --out")
    body = {
        "kind": kind.value,
        "name": name,
        "role": role.value,
        "projects": project or [],
        "ttl_s": units.seconds(ttl, "--ttl"),
    }
    hub = connect()
    answer = hub.post("/api/v1/credentials", body)
    if target is not None:
        with open(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
            file.write(answer.pop("creds"))
        answer["creds_file"] = str(target)
    if as_json:
        console.emit(answer)
    elif target is not None:
        console.say(f"{target} is good until {answer['expires_at']}, id {answer['credential_id']}")
        if hub.context.nats_url:
            inbox = f" --inbox-prefix {prefix}" if (prefix := inbox_prefix(kind, role)) else ""
            console.note(f"use it: nats --server {hub.context.nats_url} --creds {target}{inbox} …")
    else:
        console.say(answer["api_key"])
        console.note(f"good until {answer['expires_at']}, id {answer['credential_id']}; it is not shown again")


@app.command("ls")
@framed
def list_(
    everything: Annotated[
        bool, typer.Option("--all", help="Ended and revoked ones too, and those of machines.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """List credentials; never their secrets."""
    items = connect().get("/api/v1/credentials", all=1 if everything else None)["items"]
    if as_json:
        for item in items:
            console.emit(item)
        return
    console.table(
        ("ID", "KIND", "NAME", "ROLE", "PROJECTS", "EXPIRES", "REVOKED"),
        (
            (c["uuid"], c["kind"], c["name"], c["role"], ",".join(c["projects"]) or "all", (c["expires_at"] or "never")[:19],
             (c["revoked_at"] or "")[:19])
            for c in items
        ),
    )  # fmt: skip


@app.command()
@framed
def revoke(
    credential: Annotated[str, typer.Argument(help="Its id.", show_default=False)], as_json: AsJson = False
) -> None:
    """Make a credential worth nothing from now on."""
    answer = connect().post(f"/api/v1/credentials/{segment(credential)}", {}, method="DELETE")
    console.emit(answer) if as_json else console.say(f"revoked {credential}")
