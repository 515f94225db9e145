"""How the projection stands, read from its own table: works whether or not a projector runs."""

import asyncio
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import Final, LiteralString

import psycopg

from services.kit.log import Log

_STATUS: Final[LiteralString] = """
    SELECT p.position, encode(p.hash, 'hex'), p.state, p.halted_reason, p.recorded_at, p.updated_at,
           EXISTS (SELECT
                     FROM pg_locks l
                    WHERE l.locktype = 'advisory'
                      AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
                      AND l.classid::bigint = hashtext('autovibe_projection')::bigint & 4294967295
                      AND l.objid::bigint = hashtext('public')::bigint & 4294967295)
      FROM public.projection p
     WHERE p.name = 'live'
"""


@dataclass(frozen=True, slots=True)
class Status:
    """Where the tables stand against the log."""

    position: int
    hash: str
    """Head of the chain, hex."""
    state: str
    halted_reason: str | None
    log_end: int
    running: bool
    """A projector leads right now."""
    recorded_at: datetime | None
    """When the log recorded the event at `position`."""
    updated_at: datetime

    @property
    def lag(self) -> int:
        return max(0, self.log_end - self.position)


async def status(log: Log, dsn: str) -> Status:
    """Return how the live projection stands.

    Raises:
        psycopg.Error: The database is away or was never migrated.
    """
    position, head, state, reason, recorded_at, updated_at, running = await asyncio.to_thread(partial(_read, dsn))
    return Status(position, head, state, reason, await log.end(), running, recorded_at, updated_at)


def _read(dsn: str) -> tuple[int, str, str, str | None, datetime | None, datetime, bool]:
    with psycopg.connect(dsn, connect_timeout=10) as connection:
        row = connection.execute(_STATUS).fetchone()
        if row is None:
            raise LookupError("there is no projection; remedy: autovibe migrate")
        return row  # pyright: ignore[reportReturnType] # the columns of _STATUS
