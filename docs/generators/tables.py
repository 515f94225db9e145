"""reference/tables.md: tables, columns, types and indexes, from the migrations' text."""

import re
from dataclasses import dataclass, field

from docs.generators.markdown import code, page, table
from schema.migrations import all_migrations

_TABLE = re.compile(r"^CREATE TABLE (?P<name>\w+) \(\n(?P<body>.*?)^\)(?P<tail>[^;]*);", re.MULTILINE | re.DOTALL)
_INDEX = re.compile(r"^CREATE (?P<unique>UNIQUE )?INDEX (?P<name>\w+) ON (?P<table>\w+) (?P<rest>[^;]*);", re.MULTILINE)
_COLUMN = re.compile(r"^(?P<name>[a-z_]+)\s+(?P<type>[a-z]+(?:\(\d+(?:,\d+)?\))?)\s*(?P<rest>.*)$")
_COMMENT = re.compile(r"^COMMENT ON (?:COLUMN|TABLE) (?P<name>[\w.]+)\s+IS '(?P<text>(?:[^']|'')*)';", re.MULTILINE)
_WORDS = re.compile(r"IN \((?P<words>'[^)]*')\)")

_INTRODUCTION = """
The read models. The projector alone writes them; everything in them comes from the log and can be made from it again
(`autovibe projector rebuild`). Reporting uses the role `autovibe_reader`, which can read these tables and nothing else.
Columns may be added; those that are here stay. `last_seq` is the event that last changed a row. A project's slug is
`projects.name`; `project_uuid` is derived from it and is the same everywhere. Times are UTC with their zone; money and
amounts are exact decimals.
"""


@dataclass(slots=True)
class Table:
    """One table as its migration makes it."""

    name: str
    columns: list[tuple[str, str, str]] = field(default_factory=list[tuple[str, str, str]])
    """Name, type, the rest of its line."""
    keys: list[str] = field(default_factory=list[str])
    indexes: list[tuple[str, str]] = field(default_factory=list[tuple[str, str]])
    tail: str = ""


def tables() -> dict[str, Table]:
    found: dict[str, Table] = {}
    for migration in all_migrations():
        for match in _TABLE.finditer(migration.text):
            found[match["name"]] = _read(match["name"], match["body"], match["tail"])
        for match in _INDEX.finditer(migration.text):
            unique = "unique " if match["unique"] else ""
            found[match["table"]].indexes.append((match["name"], unique + " ".join(match["rest"].split())))
    return found


def comments() -> dict[str, str]:
    return {
        match["name"]: match["text"].replace("''", "'")
        for migration in all_migrations()
        for match in _COMMENT.finditer(migration.text)
    }


def text() -> str:
    said, found = comments(), tables()
    contents = "\n".join(f"- [{name}](#{name})" for name in found)
    migrations = table(
        ("migration", "why"), ((f"{one.number:04} {one.title}", dict(one.header)["Why"]) for one in all_migrations())
    )
    return page(
        "Tables",
        "`schema/sql/`",
        _INTRODUCTION,
        contents,
        *(_section(one, said) for one in found.values()),
        "## Migrations",
        migrations,
    )


def _read(name: str, body: str, tail: str) -> Table:
    made = Table(name, tail=" ".join(tail.split()))
    for line in (line.strip().rstrip(",") for line in body.splitlines()):
        match = _COLUMN.match(line)
        if line.startswith(("PRIMARY KEY", "UNIQUE", "CHECK", "FOREIGN KEY")):
            made.keys.append(line)
        elif match:
            made.columns.append((match["name"], match["type"], match["rest"]))
        elif line and not line.startswith("--"):
            raise ValueError(f"table {name}: {line!r} is no column that this reads")
    return made


def _section(one: Table, said: dict[str, str]) -> str:
    rows = ((code(name), kind, *_rest(rest), said.get(f"{one.name}.{name}", "")) for name, kind, rest in one.columns)
    parts = [f"## {one.name}", said.get(one.name, "")]
    parts.append(table(("column", "type", "null", "values", "what"), rows))
    keys = [*one.keys, *(["Partitioned by month: " + one.tail] if "PARTITION" in one.tail else [])]
    parts += [f"- {line}" for line in keys]
    if one.indexes:
        parts.append(table(("index", "on"), ((code(name), code(where)) for name, where in one.indexes)))
    return "\n\n".join(part for part in parts if part)


def _rest(rest: str) -> tuple[str, str]:
    """Whether it may be null, and what it may hold."""
    words = _WORDS.search(rest)
    between = re.search(r"BETWEEN (\S+) AND (\S+?)\)", rest)
    values = ", ".join(code(word.strip(" '")) for word in words["words"].split(",")) if words else ""
    if between:
        values = f"{between[1]} to {between[2]}"
    if "PRIMARY KEY" in rest:
        values = "primary key"
    return "" if "NOT NULL" in rest or "PRIMARY KEY" in rest else "yes", values
