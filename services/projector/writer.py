"""The one connection that writes: events, read models and position in one transaction, fenced.

Synchronous on purpose: it runs in a thread of its own, so that the database works on one batch while the next is being
validated.
"""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import date, datetime
from typing import Final, LiteralString, Self

import psycopg
from psycopg import sql
from psycopg.types.numeric import Int8

from services.projector import small
from services.projector.errors import Fenced
from services.projector.models import MODELS
from services.projector.rows import COPY, Batch

CHANNEL: Final = "autovibe_position"
"""NOTIFY channel; the payload is the position."""
OWNER: Final[LiteralString] = "autovibe_projector"
LIVE: Final = "public"
"""Schema of the tables that everybody reads."""
CONNECT_S: Final = 10
SILENCE_MS = 30_000
"""A server that answers nothing at all for this long is taken for gone."""
STATEMENT_TIMEOUT: Final[LiteralString] = "120s"
"""A batch of 5,000 takes 0.1 s; one that takes this long is stuck behind a lock."""
MONTHS_AHEAD = 12

# Generic plans, so that a batch of one is not mostly planning; without sequential scans, because a generic plan made
# while a table was small would stay when it is large.
_SESSION: Final[LiteralString] = f"""
    SET ROLE {OWNER};
    SET plan_cache_mode = force_generic_plan;
    SET enable_seqscan = off;
    SET jit = off;
    SET timezone = 'UTC';
    SET synchronous_commit = off;
    SET statement_timeout = '{STATEMENT_TIMEOUT}';
    SET idle_in_transaction_session_timeout = '60s'
"""
# synchronous_commit off: the log is the truth. What a crash takes is projected again, and position and rows go together.

_TAKE_OVER: Final[LiteralString] = """
    UPDATE projection
       SET epoch = epoch + 1,
           stream_created = COALESCE(stream_created, %(created)s),
           updated_at = clock_timestamp()
     WHERE name = 'live'
    RETURNING position, hash, epoch, stream_created
"""
_ADVANCE: Final[LiteralString] = """
    UPDATE projection
       SET position = %(upto)s,
           hash = %(hash)s,
           recorded_at = %(recorded_at)s,
           state = 'running',
           halted_reason = NULL,
           updated_at = clock_timestamp()
     WHERE name = 'live'
       AND position = %(after)s
       AND epoch = %(epoch)s
"""
_HALT: Final[LiteralString] = """
    UPDATE projection
       SET state = 'halted', halted_reason = %(reason)s, updated_at = clock_timestamp()
     WHERE name = 'live'
       AND epoch = %(epoch)s
"""
_RUN: Final[LiteralString] = """
    UPDATE projection
       SET state = 'running', halted_reason = NULL, updated_at = clock_timestamp()
     WHERE name = 'live'
       AND epoch = %(epoch)s
       AND state <> 'running'
"""
_PREVIOUS: Final[LiteralString] = "SELECT prev_hash FROM events WHERE seq = %(seq)s"
_MONTHS: Final[LiteralString] = """
    SELECT c.relname
      FROM pg_inherits i
      JOIN pg_class c ON c.oid = i.inhrelid
     WHERE i.inhparent = 'resource_usage'::regclass
"""


@dataclass(frozen=True, slots=True)
class Position:
    """Where a projection stands."""

    seq: int
    hash: bytes
    stream_created: datetime | None


class Writer:
    """Writes batches in order. Close it, and make another, after any error: it forgets what it knew of the database."""

    def __init__(self, dsn: str, *, schema: str = LIVE) -> None:
        self.schema = schema
        self._epoch = 0
        self._months: set[date] = set()
        self._connection = psycopg.connect(
            dsn,
            autocommit=True,
            prepare_threshold=0,
            application_name=f"projector {schema}",
            connect_timeout=CONNECT_S,
            keepalives_idle=5,
            keepalives_interval=2,
            keepalives_count=3,
            tcp_user_timeout=SILENCE_MS,
        )
        self._connection.execute(_SESSION, prepare=False)
        self._connection.execute(sql.SQL("SET search_path = {}").format(sql.Identifier(schema)), prepare=False)
        notify = "PERFORM pg_notify('autovibe_position', _upto::text);" if schema == LIVE else ""
        self._connection.execute(small.function(_ADVANCE, notify), prepare=False)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._connection.close()

    def try_lead(self) -> bool:
        """Become the only projector of this schema, for as long as this connection lives; False: another one is."""
        row = self._connection.execute(
            "SELECT pg_try_advisory_lock(hashtext('autovibe_projection'), hashtext(%s))", (self.schema,)
        ).fetchone()
        return row is not None and row[0] is True

    def take_over(self, stream_created: datetime | None = None) -> Position:
        """Fence every earlier writer and return where to go on."""
        row = self._connection.execute(_TAKE_OVER, {"created": stream_created}).fetchone()
        if row is None:
            raise LookupError(f"schema {self.schema} has no projection; remedy: autovibe migrate")
        position, head, self._epoch, created = row
        return Position(position, head, created)

    def previous_hash(self, seq: int) -> bytes | None:
        """Return the hash before this event, None when the event is not there."""
        row = self._connection.execute(_PREVIOUS, {"seq": Int8(seq)}).fetchone()
        return row[0] if row is not None else None

    def write(self, batch: Batch) -> None:
        """Write the batch in one transaction; all of it is there afterwards, or nothing.

        Raises:
            Fenced: Another writer has taken over, or the position is not where this batch begins.
            psycopg.OperationalError: The outcome is unknown; `take_over` on a new writer says what it was.
        """
        try:
            if batch.months <= self._months and small.fits(batch):
                self._write_small(batch)
            else:
                self._write_large(batch)
        except BaseException:
            self._months.clear()
            with suppress(psycopg.Error):
                self._connection.execute("ROLLBACK")
            raise

    def _write_small(self, batch: Batch) -> None:
        parameters = self._advance(batch) | {"rows": small.rows(batch).decode(), "types": list(batch.types)}
        row = self._connection.execute(small.CALL, parameters).fetchone()
        self._must_have_advanced(batch, advanced=row is not None and row[0] is True)

    def _write_large(self, batch: Batch) -> None:
        connection = self._connection
        with connection.pipeline():
            connection.execute("BEGIN")
            advanced = connection.execute(_ADVANCE, self._advance(batch))
        self._must_have_advanced(batch, advanced=advanced.rowcount == 1)
        self._make_partitions(batch.months)
        with connection.cursor() as cursor, cursor.copy(COPY) as copy:
            copy.write(batch.copy_data())
        span = {"after": Int8(batch.after), "upto": Int8(batch.upto)}
        with connection.pipeline():
            for model in MODELS:
                if not model.types.isdisjoint(batch.types):
                    connection.execute(model.fold, span)
            if self.schema == LIVE:
                connection.execute("SELECT pg_notify(%s, %s)", (CHANNEL, str(batch.upto)))
            connection.execute("COMMIT")

    def halt(self, reason: str) -> None:
        """Leave the reason where everybody can read it."""
        self._connection.execute(_HALT, {"reason": reason, "epoch": self._epoch})

    def run(self) -> None:
        """Take back what `halt` said."""
        self._connection.execute(_RUN, {"epoch": self._epoch})

    def _must_have_advanced(self, batch: Batch, *, advanced: bool) -> None:
        if not advanced:
            raise Fenced(f"the tables of {self.schema} are no longer at seq {batch.after}, epoch {self._epoch}")

    def _advance(self, batch: Batch) -> dict[str, object]:
        return {
            "upto": Int8(batch.upto),
            "hash": batch.hash,
            "recorded_at": batch.recorded_at,
            "after": Int8(batch.after),
            "epoch": Int8(self._epoch),
        }

    def _make_partitions(self, months: set[date]) -> None:
        """Make what is missing of these months and the year after the last one: the usage has somewhere to go."""
        if months <= self._months:
            return
        rows = self._connection.execute(_MONTHS).fetchall()
        there = {_month_of(name) for (name,) in rows}
        wanted = months | {later for month in months for later in _following(month, MONTHS_AHEAD)}
        for month in sorted(wanted - there):
            self._make_partition(month)
        self._months = there | wanted

    def _make_partition(self, month: date) -> None:
        # Made apart and attached: CREATE … PARTITION OF would wait for every reader, and every reader for it.
        name = sql.Identifier(f"resource_usage_{month:%Y_%m}")
        create = sql.SQL("CREATE TABLE {} (LIKE resource_usage INCLUDING DEFAULTS INCLUDING CONSTRAINTS)").format(name)
        attach = sql.SQL("ALTER TABLE resource_usage ATTACH PARTITION {} FOR VALUES FROM ({}) TO ({})").format(
            name, f"{month:%Y-%m-%d} 00:00:00+00", f"{_following(month, 1)[0]:%Y-%m-%d} 00:00:00+00"
        )
        self._connection.execute(create, prepare=False)
        self._connection.execute(attach, prepare=False)


def _month_of(partition: str) -> date:
    year, month = partition.removeprefix("resource_usage_").split("_")
    return date(int(year), int(month), 1)


def _following(month: date, count: int) -> Sequence[date]:
    start = month.year * 12 + month.month - 1
    return [date(number // 12, number % 12 + 1, 1) for number in range(start + 1, start + 1 + count)]
