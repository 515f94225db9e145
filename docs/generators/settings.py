"""reference/settings.md and .env.example: every setting of every service, and what the command line reads."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import cast

from pydantic import AliasChoices
from pydantic.fields import FieldInfo

from docs.generators.markdown import code, page, table
from docs.generators.source import attribute_docs
from services.budget.settings import BudgetSettings
from services.checkpointer.settings import CheckpointerSettings
from services.gateway.settings import GatewaySettings
from services.hub.settings import HubSettings
from services.intake.settings import IntakeSettings
from services.issuer.settings import IssuerSettings
from services.kit.settings import PREFIX, BusSettings, DatabaseSettings, ServiceSettings, Settings, TopologySettings
from services.projector.settings import ProjectorSettings
from services.query.settings import QuerySettings
from services.spawner.__main__ import LocalSpawnerSettings

SERVICES: dict[str, type[ServiceSettings]] = {
    "issuer": IssuerSettings,
    "hub": HubSettings,
    "intake": IntakeSettings,
    "budget": BudgetSettings,
    "checkpointer": CheckpointerSettings,
    "gateway": GatewaySettings,
    "spawner": LocalSpawnerSettings,
    "projector": ProjectorSettings,
    "query": QuerySettings,
}
_UNITS = {
    "_s": "s", "_ms": "ms", "_bytes": "bytes", "_cad": "CAD", "_percent": "%", "_per_s": "1/s", "_events": "events",
    "_port": "port", "_s_max": "s", "_bytes_max": "bytes",
}  # fmt: skip
_SECRET = frozenset({"database_url"})

_UNSAID = {
    "AUTOVIBE_CLIENT_TTL_MAX_S": "The longest that a client's credentials or an API key may be asked for.",
    "AUTOVIBE_CLIENT_TTL_S": "How long they live where nobody says.",
    "AUTOVIBE_SPAWNER_COMMAND_TIMEOUT_S": "How long an agent may take to answer a command.",
    "AUTOVIBE_DATABASE_CONNECTIONS_MAX": "Connections of this service at once.",
    "AUTOVIBE_DATABASE_URL": "A PostgreSQL URL or connection string, with the role that the service needs.",
    "AUTOVIBE_DOOR_BURST": "Knocks of one project that are let in at once.",
    "AUTOVIBE_HEALTH_HOST": "The address of the health port.",
    "AUTOVIBE_KEEP_DAILY": "The newest checkpoint of each of so many days.",
    "AUTOVIBE_KEEP_HOURLY": "The newest checkpoint of each of so many hours.",
    "AUTOVIBE_KEEP_LAST": "So many of a project's newest checkpoints.",
    "AUTOVIBE_KEEP_MONTHLY": "The newest checkpoint of each of so many months.",
    "AUTOVIBE_KEEP_WEEKLY": "The newest checkpoint of each of so many weeks.",
    "AUTOVIBE_LOG_LEVEL": "What is logged: this and what is more urgent.",
    "AUTOVIBE_CHECKPOINTER_LOOK_S": "How often what is due is looked for.",
    "AUTOVIBE_MACHINES_PATH": "Directory of the sandboxes; used when this service runs alone.",
    "AUTOVIBE_NATS_CONNECT_DEADLINE_S": "How long a server is looked for at start.",
    "AUTOVIBE_NATS_CREDS": "Creds file in the account HUB; without it the server must let everybody in.",
    "AUTOVIBE_QUERY_DOOR_DEADLINE_S": "How long the door may take to answer a command.",
    "AUTOVIBE_QUERY_HOST": "The address that HTTP is answered on.",
    "AUTOVIBE_QUERY_STATEMENT_TIMEOUT_MS": "How long one read of the database may take.",
    "AUTOVIBE_QUERY_STREAMS_MAX": "Streams of events and output at once.",
    "AUTOVIBE_QUERY_STREAMS_PER_KEY_MAX": "Streams of one API key at once.",
    "AUTOVIBE_BEAT_MISSED_S": "Contact is lost when no heartbeat came for so long.",
    "AUTOVIBE_CHECKPOINTER_REPORTS_AT_ONCE": "Reports of agents handled at once.",
    "AUTOVIBE_SPAWNER_REPORTS_AT_ONCE": "Reports of agents handled at once.",
    "AUTOVIBE_RETENTION_EVERY_S": "How often the keep rules are applied.",
    "AUTOVIBE_SPAWNER_RETRY_MAX_S": "The longest pause before a step is tried again.",
    "AUTOVIBE_SPAWNER_RETRY_MIN_S": "The first pause before a step is tried again.",
    "AUTOVIBE_STORE_HOST": "The address that chunks are exchanged on.",
    "AUTOVIBE_VERIFY": "Whether checkpoints are restored and compared in the background.",
    "AUTOVIBE_LOG_BYTES": "What the stream LOG may hold; it may grow, never shrink below what it holds.",
    "AUTOVIBE_IN_BYTES": "What IN may hold.",
    "AUTOVIBE_TIMERS_BYTES": "What TIMERS may hold.",
    "AUTOVIBE_OUTPUT_BYTES": "What OUTPUT may hold; the oldest goes first.",
    "AUTOVIBE_REJECTED_BYTES": "What REJECTED may hold; the oldest goes first.",
    "AUTOVIBE_DEAD_BYTES": "What DEAD may hold.",
    "AUTOVIBE_NATS_REPLICAS": "Copies of each stream in a cluster of servers.",
}
"""Where the class says nothing; a docstring there wins."""

CLIENT: tuple[tuple[str, str, str], ...] = (
    ("AUTOVIBE_CONTEXT", "~/.config/autovibe/client.json", "Another context file, e.g. that of another hub."),
    ("AUTOVIBE_URL", "http://127.0.0.1:8000", "Where the hub answers HTTP."),
    ("AUTOVIBE_STORE_URL", "", "Where the hub exchanges chunks."),
    ("AUTOVIBE_API_KEY", "", "Secret. The key that the commands show; also as AUTOVIBE_API_KEY_FILE."),
    ("AUTOVIBE_NATS_URL", "", "Only for migrate, verify and projector, which work on the log themselves."),
    ("AUTOVIBE_NATS_CREDS", "", "Creds file that is shown to you for other NATS clients."),
    ("AUTOVIBE_HUB_CREDS", "", "The services' own creds file; only for migrate, verify and projector."),
    ("AUTOVIBE_DATABASE_URL", "", "Secret. Only for migrate, verify and projector; DATABASE_URL is read too."),
)
"""What `cli/context.py` reads; a test compares."""

_INTRODUCTION = """
Services take their settings from the environment. **Every name also works as `NAME_FILE`**: the path of a file that
holds the value, as container secrets are. A value that is given directly wins. A wrong value ends the service at start
with exit code 2 and a message that names the setting. What is unknown is ignored, as the environment belongs to
everybody; so a name that is misspelled has no effect.

`autovibe dev` runs all services in one process, gives them addresses and paths itself and opens no health ports; the
other settings below work there too. [`.env.example`](../../.env.example) lists the same names. Nothing
reads a `.env` file by itself; load it with `set -a; . ./.env; set +a`.
"""


@dataclass(frozen=True, slots=True)
class Setting:
    """One setting, and who reads it."""

    names: tuple[str, ...]
    """The first is ours, the others are accepted too."""
    default: str
    unit: str
    bounds: str
    about: str
    secret: bool


def text() -> str:
    shared = _fields(ServiceSettings)
    database = _fields(DatabaseSettings)
    parts = ["## Every service", _table(shared), "## Services with a database (projector, query)", _table(database)]
    parts += ["## Streams", _STREAMS, _table(topology())]
    for name, cls in SERVICES.items():
        own = own_settings(cls)
        parts += [f"## {name}", cls.__doc__ or "", _table(own) if own else "Nothing of its own."]
    parts += ["## The command line", _CLIENT, table(("name", "default", "what"), (_client_row(*one) for one in CLIENT))]
    return page("Settings", "the settings classes of `services/`", _INTRODUCTION, *parts)


_STREAMS = """
Read by `autovibe migrate` and `autovibe dev`, which make the streams. Together they must stay below the server's
`max_file_store`, which reserves them.
"""
_CLIENT = """
The commands read the context file that `autovibe dev` writes when it is ready; the environment wins over it.
`NO_COLOR` switches colours off, `XDG_CONFIG_HOME` moves `~/.config`. `AUTOVIBE_LOG_LEVEL` says how much `autovibe dev`
tells on stderr; without it only warnings.
"""


def environment() -> str:
    """Return `.env.example`."""
    lines = [
        "# Every setting of autovibe with its default: made by `python -m docs.generate`, explained in",
        "# docs/reference/settings.md. Every name also works as NAME_FILE: the path of a file that holds the value.",
        "# Copy to .env, take away the leading `# ` where you want another value, load with: set -a; . ./.env; set +a",
    ]
    seen: set[str] = set()
    sections = {"Every service": _fields(ServiceSettings), "Projector and query": _fields(DatabaseSettings)}
    sections["Streams"] = topology()
    sections |= {f"{name}": own_settings(cls) for name, cls in SERVICES.items()}
    for title, settings in sections.items():
        lines += ["", f"## {title}"]
        for one in settings:
            lines += _example(one.names[0], one.default, one.about, secret=one.secret)
            seen.add(one.names[0])
    lines += ["", "## The command line"]
    for name, default, about in CLIENT:
        if name not in seen:
            lines += _example(name, default, about, secret=False)
    return "\n".join(lines) + "\n"


def every_name() -> set[str]:
    """Return every name that a service or the command line reads."""
    classes: list[type[Settings]] = [ServiceSettings, DatabaseSettings, TopologySettings, *SERVICES.values()]
    found = {name for cls in classes for one in _fields(cls) for name in one.names}
    return found | {name for name, _, _ in CLIENT}


def own_settings(cls: type[ServiceSettings]) -> list[Setting]:
    """Return what a service has beside what all have."""
    shared = set(ServiceSettings.model_fields) | set(DatabaseSettings.model_fields)
    return list(_settings(cls, {name: field for name, field in cls.model_fields.items() if name not in shared}))


def topology() -> list[Setting]:
    """Return what only the making of streams reads."""
    own = set(TopologySettings.model_fields) - set(BusSettings.model_fields) - {"nats_system_creds"}
    return list(
        _settings(TopologySettings, {name: it for name, it in TopologySettings.model_fields.items() if name in own})
    )


def _fields(cls: type[Settings]) -> list[Setting]:
    return list(_settings(cls, cls.model_fields))


def _settings(cls: type[Settings], fields: dict[str, FieldInfo]) -> Iterator[Setting]:
    docs = attribute_docs(cls)
    for name, field in fields.items():
        yield Setting(
            names=_names(name, field),
            default=_default(field),
            unit=next((unit for end, unit in sorted(_UNITS.items(), key=_longest) if name.endswith(end)), ""),
            bounds=", ".join(_bounds(field)),
            about=docs.get(name) or _UNSAID.get(_names(name, field)[0], ""),
            secret=name in _SECRET or not field.repr,
        )


def _longest(entry: tuple[str, str]) -> int:
    return -len(entry[0])


def _names(name: str, field: FieldInfo) -> tuple[str, ...]:
    alias = field.validation_alias
    if isinstance(alias, AliasChoices):
        return tuple(choice for choice in alias.choices if isinstance(choice, str))
    return (PREFIX + name.upper(),)


def _default(field: FieldInfo) -> str:
    factory = field.default_factory
    if factory is not None:
        return getattr(factory, "__name__", "").strip("_").replace("_", " ")
    default: object = field.default
    if default is None or default == ():
        return ""
    if isinstance(default, dict):
        mapping = cast("dict[object, object]", default)
        return json.dumps({str(key): value for key, value in mapping.items()}, separators=(",", ":")) if mapping else ""
    if isinstance(default, tuple):
        return "[" + ", ".join(f'"{word}"' for word in cast("tuple[object, ...]", default)) + "]"
    if isinstance(default, bool):
        return str(default).lower()
    return f"{default:g}" if isinstance(default, float) else str(default)


def _bounds(field: FieldInfo) -> Iterator[str]:
    signs = {"ge": "≥ {}", "gt": "> {}", "le": "≤ {}", "lt": "< {}", "pattern": "`{}`", "max_length": "at most {} long"}
    for rule in field.metadata:
        for name, sign in signs.items():
            value = getattr(rule, name, None)
            if value is not None:
                yield sign.format(value)


def _table(settings: list[Setting]) -> str:
    return table(("name", "default", "unit", "bounds", "what"), (_row(one) for one in settings))


def _row(one: Setting) -> tuple[str, ...]:
    names = code(one.names[0]) + "".join(f" or {code(name)}" for name in one.names[1:])
    about = f"**Secret.** {one.about}" if one.secret else one.about
    plain = one.default if " " in one.default and not one.default.startswith("[") else code(one.default)
    return names, plain, one.unit, one.bounds, about


def _client_row(name: str, default: str, about: str) -> tuple[str, ...]:
    return code(name), code(default), about


def _example(name: str, default: str, about: str, *, secret: bool) -> list[str]:
    said = f"# {'Secret. ' if secret else ''}{about}".rstrip()
    value = "" if secret or (" " in default and not default.startswith("[")) else default
    quoted = f"'{value}'" if value.startswith(("[", "{")) else value
    return [*([said] if said != "#" else []), f"# {name}={quoted}"]
