"""Numbered SQL migrations (schema/sql), applied in order, each once, each in a transaction of its own.

A migration is never changed after it was applied somewhere: its checksum is recorded and compared. Those marked
`Rebuilt: yes` make the tables that are folded from the log; a rebuild runs them again in a schema of its own.
"""

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import LiteralString, cast

from psycopg import Connection, connect, sql
from psycopg.errors import InsufficientPrivilege

OWNER = "autovibe_projector"
READER = "autovibe_reader"
CONNECT_S = 10
LOCK = 4_283_116_229
"""Advisory lock: one `apply` at a time per database."""

_NAME = re.compile(r"(?P<number>\d{4})_(?P<title>[a-z0-9_]+)\.sql")
_FIELDS = ("Why", "Locks", "Reversible", "Backfill", "As", "Rebuilt")

_BOOK = """
    CREATE TABLE IF NOT EXISTS schema_migrations (
        number     integer     PRIMARY KEY,
        title      text        NOT NULL,
        checksum   text        NOT NULL,
        applied_at timestamptz NOT NULL DEFAULT now()
    )
"""


class MigrationError(Exception):
    """The database and the migrations do not fit together; the message says what to do."""


@dataclass(frozen=True, slots=True)
class Migration:
    number: int
    title: str
    text: LiteralString
    header: tuple[tuple[str, str], ...]

    @property
    def checksum(self) -> str:
        return hashlib.sha256(self.text.encode()).hexdigest()

    @property
    def by_admin(self) -> bool:
        """Run as whoever connects (roles, grants) and not as the owner of the tables."""
        return dict(self.header)["As"] == "admin"

    @property
    def rebuilt(self) -> bool:
        """Its tables are folded from the log: a rebuild makes them anew beside the old ones."""
        return dict(self.header)["Rebuilt"] == "yes"


def all_migrations() -> tuple[Migration, ...]:
    """Return the migrations of this version, in order.

    Raises:
        MigrationError: A number is missing or taken twice, or a header is incomplete.
    """
    found = [
        _parse(file.name, file.read_text("utf-8"))
        for file in files("schema").joinpath("sql").iterdir()
        if file.name.endswith(".sql")
    ]
    found.sort(key=lambda migration: migration.number)
    numbers = [migration.number for migration in found]
    if numbers != list(range(1, len(found) + 1)):
        raise MigrationError(f"migrations are numbered {numbers}, not 1 to {len(found)}")
    return tuple(found)


def apply(dsn: str) -> tuple[Migration, ...]:
    """Apply what is missing and return it; nothing to do is the normal case.

    Args:
        dsn: As a role that may create roles and schemas; a superuser also gets the limits only one can set.

    Raises:
        MigrationError: The database was migrated by another version, or the role may not do it.
    """
    migrations = all_migrations()
    with connect(dsn, autocommit=True, connect_timeout=CONNECT_S) as connection:
        connection.execute("SET search_path = public")
        connection.execute("SELECT pg_advisory_lock(%s)", (LOCK,))
        connection.execute(_BOOK)
        missing = _missing(connection, migrations)
        for migration in missing:
            _apply(connection, migration)
    return missing


def pending(dsn: str) -> tuple[Migration, ...]:
    """Return what `apply` would apply, as a role that can read only; all of them for an empty database."""
    with connect(dsn, autocommit=True, connect_timeout=CONNECT_S) as connection:
        row = connection.execute("SELECT to_regclass('schema_migrations')").fetchone()
        return all_migrations() if row is None or row[0] is None else _missing(connection, all_migrations())


def create_tables(connection: Connection, schema: str) -> None:
    """Make the tables that are folded from the log, empty, in a schema; inside the caller's transaction."""
    connection.execute(sql.SQL("SET LOCAL search_path = {}").format(sql.Identifier(schema)))
    for migration in all_migrations():
        if migration.rebuilt:
            connection.execute(migration.text)


def _missing(connection: Connection, migrations: Sequence[Migration]) -> tuple[Migration, ...]:
    rows = connection.execute("SELECT number, title, checksum FROM schema_migrations ORDER BY number").fetchall()
    for (number, title, checksum), ours in zip(rows, migrations, strict=False):
        if (number, checksum) != (ours.number, ours.checksum):
            raise MigrationError(
                f"migration {number} ({title}) was applied with checksum {checksum[:12]}, here it is"
                f" {ours.number} ({ours.title}) {ours.checksum[:12]}; an applied migration is never changed: write a new one"
            )
    if len(rows) > len(migrations):
        raise MigrationError(
            f"the database has {len(rows)} migrations, this version knows {len(migrations)}: use the newer version"
        )
    return tuple(migrations[len(rows) :])


def _apply(connection: Connection, migration: Migration) -> None:
    try:
        with connection.transaction():
            if not migration.by_admin:
                connection.execute(sql.SQL("SET LOCAL ROLE {}").format(sql.Identifier(OWNER)))
            connection.execute("SET LOCAL search_path = public")
            connection.execute(migration.text)
            connection.execute("RESET ROLE")
            connection.execute(
                "INSERT INTO schema_migrations (number, title, checksum) VALUES (%s, %s, %s)",
                (migration.number, migration.title, migration.checksum),
            )
    except InsufficientPrivilege as refused:
        raise MigrationError(
            f"migration {migration.number} ({migration.title}) was refused: {refused}; connect as a superuser, or as"
            f" a role that may create roles and is a member of {OWNER}"
        ) from refused


def _parse(name: str, text: str) -> Migration:
    matched = _NAME.fullmatch(name)
    if matched is None:
        raise MigrationError(f"{name!r} is not named like 0001_title.sql")
    header: list[tuple[str, str]] = []
    for field in _FIELDS:
        value = re.search(rf"^-- {field}: +(.+)$", text, re.MULTILINE)
        if value is None:
            raise MigrationError(f"{name} does not say {field!r} in its header")
        header.append((field, value[1].strip()))
    # The text comes from our own package, not from anybody's input.
    return Migration(int(matched["number"]), matched["title"], cast("LiteralString", text), tuple(header))
