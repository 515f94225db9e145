"""The tables as a test sees them."""

from collections.abc import Iterable, Sequence
from decimal import Decimal
from typing import Any

import psycopg
from psycopg import sql
from psycopg.rows import dict_row

from services.kit.message import RawMessage
from services.kit.tables import create_tables
from services.projector.models import MODELS
from services.projector.rows import prepare
from services.projector.writer import Writer

Row = dict[str, Any]
_KEYS = {model.table: tuple(part.strip() for part in model.key.split(",")) for model in MODELS}
_KEYS["resource_budgets"] = ("project_uuid", "node", "resource_type", "budget_period", "period_start")
_MADE_UP = {"resource_budgets": {"uuid"}}
"""Columns that the database makes itself."""


def shadow_schema(dsn: str, schema: str) -> None:
    """Make one more set of tables."""
    with psycopg.connect(dsn) as connection:
        name = sql.Identifier(schema)
        connection.execute(sql.SQL("CREATE SCHEMA {} AUTHORIZATION autovibe_projector").format(name))
        connection.execute("SET ROLE autovibe_projector")
        create_tables(connection, schema)
        connection.execute(sql.SQL("CREATE TABLE {}.projection (LIKE public.projection INCLUDING ALL)").format(name))
        connection.execute(sql.SQL("INSERT INTO {}.projection (name) VALUES ('live')").format(name))


def empty(connection: psycopg.Connection, schema: str) -> None:
    tables = [sql.Identifier(schema, name) for name in ("events", *_KEYS)]
    connection.execute(sql.SQL("TRUNCATE {}").format(sql.SQL(", ").join(tables)))
    connection.execute(
        sql.SQL("UPDATE {} SET position = 0, hash = decode(repeat('00', 32), 'hex')").format(
            sql.Identifier(schema, "projection")
        )
    )
    connection.commit()


def write(writer: Writer, parts: Iterable[Sequence[RawMessage]]) -> None:
    """Write parts of the log one after the other, each a transaction."""
    at = writer.take_over()
    after, head = at.seq, at.hash
    for part in parts:
        batch = prepare(part, after, head)
        assert batch.broken is None, batch.broken
        if len(batch):
            writer.write(batch)
        after, head = batch.upto, batch.hash


def read(connection: psycopg.Connection, schema: str) -> dict[str, dict[tuple[Any, ...], Row]]:
    """Return every read model's rows by key."""
    found: dict[str, dict[tuple[Any, ...], Row]] = {}
    with connection.cursor(row_factory=dict_row) as cursor:
        for table, key in _KEYS.items():
            rows = cursor.execute(sql.SQL("SELECT * FROM {}").format(sql.Identifier(schema, table))).fetchall()
            for row in rows:
                for name in _MADE_UP.get(table, ()):
                    del row[name]
            found[table] = {tuple(row[part] for part in key): row for row in rows}
    connection.rollback()
    return found


def copied(connection: psycopg.Connection, schema: str) -> list[tuple[object, ...]]:
    rows = connection.execute(
        sql.SQL("SELECT * FROM {} ORDER BY seq").format(sql.Identifier(schema, "events"))
    ).fetchall()
    connection.rollback()
    return rows


def total(rows: Iterable[Row], column: str) -> Decimal:
    return sum((row[column] for row in rows), Decimal(0))
