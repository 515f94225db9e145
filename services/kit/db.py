"""PostgreSQL connections of a service: a bounded pool whose every wait has a deadline."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import TypeAlias

from psycopg import AsyncConnection
from psycopg.rows import TupleRow
from psycopg_pool import AsyncConnectionPool

from services.kit.settings import DatabaseSettings

Pool: TypeAlias = AsyncConnectionPool[AsyncConnection[TupleRow]]

ACQUIRE_TIMEOUT_S = 10.0
CONNECT_TIMEOUT_S = 5
STATEMENT_TIMEOUT_MS = 30_000
IDLE_IN_TRANSACTION_TIMEOUT_MS = 60_000


@asynccontextmanager
async def connect(
    settings: DatabaseSettings,
    *,
    name: str,
    read_only: bool = False,
    connections_max: int | None = None,
    statement_timeout_ms: int = STATEMENT_TIMEOUT_MS,
) -> AsyncGenerator[Pool]:
    """Open a pool; it comes up without the server and connects again when the server was away.

    `read_only` is a courtesy against mistakes; what really protects is the role in the URL.
    """
    options = (
        f"-c statement_timeout={statement_timeout_ms} "
        f"-c idle_in_transaction_session_timeout={IDLE_IN_TRANSACTION_TIMEOUT_MS} "
        f"-c default_transaction_read_only={'on' if read_only else 'off'} -c timezone=UTC"
    )
    pool: Pool = AsyncConnectionPool(
        settings.database_url,
        min_size=1,
        max_size=connections_max or settings.database_connections_max,
        timeout=ACQUIRE_TIMEOUT_S,
        max_waiting=1_000,
        max_lifetime=3_600,
        reconnect_timeout=5.0,
        kwargs={
            "application_name": f"autovibe {name}",
            "connect_timeout": CONNECT_TIMEOUT_S,
            "options": options,
            "keepalives_idle": 10,
        },
        check=AsyncConnectionPool.check_connection,
        open=False,
        name=name,
    )
    await pool.open()
    try:
        yield pool
    finally:
        await pool.close()
