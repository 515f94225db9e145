"""What the folds have in common: a statement per read model that takes a stretch of the log, however long.

A fold gives the same rows for any cut of the log into stretches. So it never depends on what else is in the stretch:
a row is made by the event that begins its life, what came before that event or begins it again is passed over, and of
what replaces (a phase, a name) the last one in the stretch counts.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import LiteralString, cast

RANGE: LiteralString = "e.seq > %(after)s AND e.seq <= %(upto)s"


@dataclass(frozen=True, slots=True)
class Model:
    """One read model."""

    table: LiteralString
    key: LiteralString
    """Its primary key's columns."""
    types: frozenset[str]
    """The events it hears; a stretch without any of them changes nothing."""
    fold: LiteralString
    """The statement; `after` and `upto` are its parameters."""


def words(values: Iterable[str]) -> LiteralString:
    """Return `'a', 'b'` for an SQL list. The values are our own words, never input."""
    listed = list(values)
    assert all(value.replace("_", "").isalnum() for value in listed), listed
    return cast("LiteralString", ", ".join(f"'{value}'" for value in listed))


def rows(values: Iterable[str]) -> LiteralString:
    """Return `('a'), ('b')` for VALUES."""
    return ", ".join(f"({words([value])})" for value in values)


def case(pairs: Iterable[tuple[str, str]]) -> LiteralString:
    """Return the WHENs of a CASE."""
    return " ".join([f"WHEN {words([key])} THEN {words([value])}" for key, value in pairs])


def last(expression: LiteralString, *types: LiteralString) -> LiteralString:
    """Return the aggregate that gives the expression's value in the last event of these types in which it has one."""
    return f"({_found(expression, types)})[1]"


def first(expression: LiteralString, *types: LiteralString) -> LiteralString:
    """Return the aggregate that gives the expression's value in the first event of these types in which it has one."""
    # In the order that `last` has too: the rows are sorted once, and PostgreSQL computes the same aggregate once.
    found = _found(expression, types)
    return f"({found})[cardinality({found})]"


def _found(expression: LiteralString, types: Iterable[str]) -> LiteralString:
    heard = words(types)
    return f"array_agg({expression} ORDER BY seq DESC) FILTER (WHERE type IN ({heard}) AND {expression} IS NOT NULL)"


def counted(
    table: LiteralString, key: LiteralString, begins: LiteralString, types: Iterable[str], also: LiteralString = ""
) -> LiteralString:
    """Return the CTEs `heard` and `counted`: the stretch's events of these types that count for a row of `table`.

    Those are, for a row that is `known`, all but another beginning; for a new one the first beginning and what
    comes after it. `also` are further columns, computed once per event rather than once per aggregate.
    """
    return f"""
    heard AS (
        SELECT e.seq, e.type, e.recorded_at, e.project, e.project_uuid, e.aggregate_uuid, e.body, {key} AS uuid{also}
          FROM events e
         WHERE {RANGE}
           AND e.type IN ({words(types)})
    ), placed AS (
        SELECT h.*, t.uuid IS NOT NULL AS known,
               min(h.seq) FILTER (WHERE h.type = '{begins}') OVER (PARTITION BY h.uuid) AS born
          FROM heard h
          LEFT JOIN {table} t ON t.uuid = h.uuid
         WHERE h.uuid IS NOT NULL
    ), counted AS (
        SELECT *
          FROM placed
         WHERE CASE
                   WHEN known THEN type <> '{begins}'
                   WHEN type = '{begins}' THEN seq = born
                   ELSE seq > born
               END
    )"""
