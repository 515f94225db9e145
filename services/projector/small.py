"""Small batches in one round trip: position, rows, folds and notice in one call of a function on the server.

A batch of one would otherwise be mostly waiting: BEGIN, COPY and COMMIT are four round trips, and every statement costs
the client 40 µs. The function is this session's own (`pg_temp`) and made of the same statements as large batches use.
"""

import struct
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Final, LiteralString
from uuid import UUID

import orjson

from services.projector.models import MODELS
from services.projector.models.base import words
from services.projector.rows import Batch

EVENTS_MAX: Final = 32
BYTES_MAX: Final = 1024 * 1024

CALL: Final[LiteralString] = (
    "SELECT pg_temp.autovibe_project(%(after)s, %(upto)s, %(hash)s, %(recorded_at)s, %(epoch)s, %(rows)s::json, %(types)s)"
)
_FOLDS: Final[LiteralString] = "\n".join(
    [
        f"IF _types && ARRAY[{words(sorted(model.types))}] THEN "
        + model.fold.replace("%(after)s", "_after").replace("%(upto)s", "_upto")
        + "; END IF;"
        for model in MODELS
    ]
)


def function(advance: LiteralString, notify: LiteralString) -> LiteralString:
    """Return the function's definition; it answers false, having done nothing, when the writer is fenced.

    Args:
        advance: The statement that moves the position, of the parameters that `CALL` has.
        notify: What tells the waiters, of `_upto`; empty for tables nobody waits for.
    """
    moved = advance
    for name in ("after", "upto", "hash", "recorded_at", "epoch"):
        moved = moved.replace(f"%({name})s", f"_{name}")
    return f"""
    CREATE FUNCTION pg_temp.autovibe_project(
        _after bigint, _upto bigint, _hash bytea, _recorded_at timestamptz, _epoch bigint, _rows json, _types text[]
    ) RETURNS boolean LANGUAGE plpgsql AS $body$
    #variable_conflict use_column
    BEGIN
        {moved};
        IF NOT FOUND THEN
            RETURN false;
        END IF;
        INSERT INTO events (seq, id, project, project_uuid, aggregate, aggregate_id, aggregate_uuid, type, version,
                            occurred_at, recorded_at, actor, cause, correlation, reason, body, prev_hash, hash)
        SELECT r.*
          FROM json_to_recordset(_rows) r (
                   seq bigint, id uuid, project text, project_uuid uuid, aggregate text, aggregate_id text,
                   aggregate_uuid uuid, type text, version integer, occurred_at timestamptz, recorded_at timestamptz,
                   actor text, cause uuid, correlation uuid, reason text, body jsonb, prev_hash bytea, hash bytea
               );
        {_FOLDS}
        {notify}
        RETURN true;
    END
    $body$
    """


def fits(batch: Batch) -> bool:
    return len(batch) <= EVENTS_MAX and sum(map(len, batch.rows)) <= BYTES_MAX


def rows(batch: Batch) -> bytes:
    """Return the batch's rows as a JSON array."""
    return b"[%b]" % b",".join(map(_row, batch.rows))


_EPOCH = datetime(2000, 1, 1, tzinfo=UTC)


def _row(row: bytes) -> bytes:
    fields = iter(_fields(row))

    def number() -> int:
        return int.from_bytes(next(fields) or b"", "big", signed=True)

    def time() -> str:
        return (_EPOCH + timedelta(microseconds=number())).isoformat()

    def uuid() -> str | None:
        raw = next(fields)
        return None if raw is None else str(UUID(bytes=raw))

    def text() -> str:
        return (next(fields) or b"").decode()

    def binary() -> str:
        return f"\\x{(next(fields) or b'').hex()}"

    # In the order of `rows.COLUMNS`: each call takes the next field.
    laid = {
        "seq": number(),
        "occurred_at": time(),
        "recorded_at": time(),
        "version": number(),
        "id": uuid(),
        "prev_hash": binary(),
        "hash": binary(),
        "project_uuid": uuid(),
        "aggregate_uuid": uuid(),
        "project": text(),
        "aggregate": text(),
        "aggregate_id": text(),
        "type": text(),
        "cause": uuid(),
        "correlation": uuid(),
        "actor": text(),
        "reason": text(),
        "body": orjson.Fragment((next(fields) or b"")[1:]),
    }
    return orjson.dumps(laid)


def _fields(row: bytes) -> Iterator[bytes | None]:
    """Yield the fields of a row in COPY's binary format."""
    (count,) = struct.unpack_from(">h", row)
    at = 2
    for _ in range(count):
        (length,) = struct.unpack_from(">i", row, at)
        at += 4
        yield None if length < 0 else row[at : at + length]
        at += max(length, 0)
