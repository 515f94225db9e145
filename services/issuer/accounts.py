"""What each account may import and export, and what each kind of user may say and hear. Pure.

HUB is where the services live. A project's account imports its own part of HUB's exports and nothing else, so whatever
a client does with subjects or reply subjects, it lands inside its own project.
"""

from collections.abc import Mapping
from datetime import datetime

from events.ids import is_slug
from events.words import Role
from services.issuer.jwt import Claims, Key, Permissions, Scope, account_jwt

PROJECT_CONNECTIONS_MAX = 4_096
MACHINE_SUBSCRIPTIONS_MAX = 32
MACHINE_PAYLOAD_MAX_BYTES = 524_288
"""Twice what the door takes: a batch of output lines and a report with its headers fit."""
COMMAND_ANSWER_MAX_S = 330
"""A capture may take 300 s; after this an answer to a command is refused."""

REPORTED_TO = ("spawner", "checkpointer")
"""The services that take reports. What nobody takes would fill the queue that the door of every project is."""

HUB_INBOX = "_INBOX_hub"
"""Inboxes of the services. Exported, so that a machine can answer a command that reached it through a stream import;
it may publish there only as the answer to a command, which the server remembers."""

_DISCOVERY = ("$SRV.PING", "$SRV.PING.>", "$SRV.INFO", "$SRV.INFO.>")
"""`nats service ls` and `info`. STATS are not for clients: they count what others do."""
_LOG_API = "$JS.API.STREAM"
_INBOX = "_INBOX.>"
_CREDENTIALS = "ask._hub.credential.>"


def hub_jwt(operator: Key, hub: str, *, at: datetime) -> str:
    """JetStream, and everything anybody else may import."""
    services: list[Claims] = [
        {"name": prefix, "subject": f"{prefix}.>", "type": "service"}
        for prefix in ("in", "ask", "from", "out", "beat", HUB_INBOX)
    ]
    # Several services answer a discovery request; with the default (one answer) only the first would be heard.
    discovery: Claims = {"name": "$SRV", "subject": "$SRV.>", "type": "service", "response_type": "Stream"}
    streams: list[Claims] = [
        {"name": prefix, "subject": f"{prefix}.>", "type": "stream"} for prefix in ("log", "live", "cmd", "rejected")
    ]
    return account_jwt(operator, hub, name="HUB", at=at, jetstream=True, exports=[*services, discovery, *streams])


def system_jwt(operator: Key, system: str, *, at: datetime) -> str:
    return account_jwt(operator, system, name="SYS", at=at)


def operator_account_jwt(
    operator: Key, account: str, *, hub: str, at: datetime, revocations: Mapping[str, int] | None = None
) -> str:
    """The account of those who operate the hub: every project's door and log, but no machine's voice."""
    imports = [
        _service(hub, "in.>"),
        _service(hub, "ask.>", share=True),
        _service(hub, "$SRV.>"),
        _stream(hub, "log.>", "av.>"),
        _stream(hub, "live.>"),
        _stream(hub, "rejected.>"),
    ]
    return account_jwt(operator, account, name="OPERATOR", at=at, imports=imports, revocations=revocations)


def project_jwt(
    operator: Key,
    account: str,
    *,
    slug: str,
    hub: str,
    machines: str,
    at: datetime,
    revocations: Mapping[str, int] | None = None,
) -> str:
    """The account of one project; `machines` is the public key that signs its machines' credentials."""
    assert is_slug(slug), slug
    imports = [
        _service(hub, f"in.{slug}.>"),
        _service(hub, f"ask.{slug}.>", share=True),
        _service(hub, f"from.{slug}.>"),
        _service(hub, f"out.{slug}.>"),
        _service(hub, f"beat.{slug}.>"),
        _service(hub, f"{HUB_INBOX}.>"),
        _service(hub, "$SRV.>"),
        _stream(hub, f"cmd.{slug}.>"),
        _stream(hub, f"log.{slug}.>", f"av.{slug}.>"),
        _stream(hub, f"live.{slug}.>"),
        _stream(hub, f"rejected.{slug}.>"),
    ]
    return account_jwt(
        operator,
        account,
        name=f"project {slug}",
        at=at,
        connections_max=PROJECT_CONNECTIONS_MAX,
        imports=imports,
        scopes=[machine_scope(slug, machines)],
        revocations=revocations,
    )


def machine_scope(slug: str, public: str) -> Scope:
    """What any machine of the project can be; the user's name is the machine's id, its tag `epoch` the epoch."""
    own = f"{slug}.{{{{name()}}}}.{{{{tag(epoch)}}}}"
    permissions = Permissions(
        publish=(*(f"from.{own}.{service}.*" for service in REPORTED_TO), f"out.{own}", f"beat.{own}"),
        subscribe=(f"cmd.{own}.>", "_INBOX_{{name()}}.>"),
        responses=1,
        responses_within_s=COMMAND_ANSWER_MAX_S,
    )
    return Scope(public, "machine", permissions, MACHINE_SUBSCRIPTIONS_MAX, MACHINE_PAYLOAD_MAX_BYTES)


def client_permissions(slug: str, role: Role) -> Permissions:
    """A viewer hears its project; an operator also knocks at its door. Replies come to the default inbox."""
    door = () if role is Role.VIEWER else (f"in.{slug}.>", f"ask.{slug}.>")
    return Permissions((*_DISCOVERY, *door), (_INBOX, f"av.{slug}.>", f"live.{slug}.>", f"rejected.{slug}.>"))


def operator_permissions(role: Role) -> Permissions:
    """An admin alone makes credentials, and they come to its inbox: so that inbox is nobody else's.

    The others have one of their own: their client needs the inbox prefix `_INBOX_viewer` or `_INBOX_operator`.
    """
    inbox = _INBOX if role is Role.ADMIN else f"_INBOX_{role}.>"
    door = _DISCOVERY if role is Role.VIEWER else ("$SRV.>", "in.>", "ask.>")
    deny = () if role is Role.ADMIN else (_CREDENTIALS,)
    return Permissions(door, (inbox, "av.>", "live.>", "rejected.>"), deny)


def service_permissions() -> Permissions:
    """Our services may do all in HUB but erase history."""
    erasing = ("DELETE", "PURGE", "MSG.DELETE", "RESTORE")
    return Permissions((">",), (">",), tuple(f"{_LOG_API}.{verb}.LOG" for verb in erasing))


def system_permissions() -> Permissions:
    return Permissions((">",), (">",))


def _service(hub: str, subject: str, *, share: bool = False) -> Claims:
    """`share` has the server say who asks (`Nats-Request-Info`)."""
    entry: dict[str, object] = {"name": subject, "subject": subject, "account": hub, "type": "service"}
    return entry | {"share": True} if share else entry


def _stream(hub: str, subject: str, local_subject: str | None = None) -> Claims:
    entry: dict[str, object] = {"name": subject, "subject": subject, "account": hub, "type": "stream"}
    return entry | {"local_subject": local_subject} if local_subject else entry
