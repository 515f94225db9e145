"""Who knocks and what they call it: sender, client id, and the id the log gives it."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import cast
from urllib.parse import unquote
from uuid import UUID

from domain.door import CLIENT_ID_CHARS_MAX, Request
from domain.refusal import cut
from events.envelope import MSG_ID, Cause
from events.ids import door_id
from events.records import Problem

REQUEST_INFO = "Nats-Request-Info"
"""Written by the server when a request comes from another account, whatever the sender put there."""


@dataclass(frozen=True, slots=True)
class Sender:
    """Who says it. The key decides which ids can meet; the actor is what history shows."""

    key: str
    actor: str


def project_sender(subject: str) -> Sender:
    """Whoever holds a credential of the project: a message taken through JetStream does not say more."""
    tokens = subject.split(".")
    name = f"project:{cut(tokens[1], 80) if len(tokens) > 1 else ''}"
    return Sender(name, name)


def asking_sender(headers: Mapping[str, str]) -> Sender:
    """The client that the server says it is; inside HUB, who our own service says it is."""
    text = headers.get(REQUEST_INFO)
    if text is None:
        actor = cut(unquote(str(headers.get("ce-actor", ""))), 150) or "hub"
        return Sender(f"hub:{actor}", actor)
    info = cast("Mapping[str, object]", json.loads(text))
    return Sender(f"client:{info.get('user', '')}", f"client:{cut(str(info.get('name_tag', '')), 150)}")


def client_id(headers: Mapping[str, str], default: str) -> str | Problem:
    """Return what the client calls its message, or `default` when it has no name for it."""
    # CloudEvents percent-encodes header values (`events.envelope`).
    for name, value in (("ce-id", unquote(str(headers.get("ce-id", "")))), (MSG_ID, str(headers.get(MSG_ID, "")))):
        if value:
            if len(value) <= CLIENT_ID_CHARS_MAX:
                return cut(value, 10 * CLIENT_ID_CHARS_MAX)
            return Problem(
                code="bad_header",
                message=f"header {name} has {len(value)} characters, {CLIENT_ID_CHARS_MAX} are allowed",
                field=name,
                value=cut(value, 400),
                limit=f"{CLIENT_ID_CHARS_MAX} characters",
                remedy="use a UUID",
            )
    return default


def log_id(sender: Sender, request: Request, named: str) -> UUID:
    """Return the id in the log. The subject is part of it: no id can ever stand at two places in the log."""
    return door_id(sender.key, f"{request.address.subject(request.event.type())} {named}")


def cause(sender: Sender) -> Cause:
    return Cause(sender.actor)
