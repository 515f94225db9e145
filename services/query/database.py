"""Connections to the read model: few, kept, each wait with a deadline; a read is repeated when its connection died.

Not psycopg's pool, whose bookkeeping costs as much as a page's other Python work (measured: bench/query.py).
"""

import asyncio
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from typing import LiteralString, TypeAlias

from psycopg import AsyncConnection, Error, InterfaceError, OperationalError
from psycopg.errors import FeatureNotSupported, QueryCanceled
from psycopg.pq import TransactionStatus
from psycopg.rows import TupleRow

from services.query.problems import HttpProblem, unavailable

Row: TypeAlias = Sequence[object]

CONNECT_TIMEOUT_S = 5
ACQUIRE_S_MAX = 5.0
WAITING_MAX = 1_000
READER = "autovibe_reader"
"""May read the tables and nothing else, whoever the URL names."""
PREPARE_AFTER = 2
"""Executions of a statement on a connection before the server keeps its plan."""
PREPARED_MAX = 200


class Database:
    """Reads; nothing else is possible on these connections."""

    def __init__(self, dsn: str, *, connections_max: int, statement_timeout_ms: int) -> None:
        self._dsn = dsn
        self._options = (
            f"-c statement_timeout={statement_timeout_ms} -c default_transaction_read_only=on -c timezone=UTC "
            f"-c datestyle=ISO -c jit=off -c lock_timeout=2s -c role={READER}"
        )
        self._statement_timeout_ms = statement_timeout_ms
        self._idle: list[AsyncConnection[TupleRow]] = []
        self._places = asyncio.Semaphore(connections_max)
        self._waiting = 0

    @asynccontextmanager
    async def opened(self) -> AsyncGenerator["Database"]:
        """Nothing is connected before the first read: the service comes up without the server."""
        try:
            yield self
        finally:
            await self._close_idle()

    async def rows(self, statement: LiteralString, parameters: Mapping[str, object]) -> Sequence[Row]:
        """Return all rows of one statement.

        Raises:
            HttpProblem: 503: the server is away, all connections are busy, or the statement took too long.
            psycopg.DataError: A value does not fit; a mistake in a parameter's parser.
        """
        await self._take_place()
        try:
            return await self._tried(statement, parameters)
        except QueryCanceled as error:
            limit = f"{self._statement_timeout_ms} ms"
            raise HttpProblem(
                503,
                "too_slow",
                f"the read took longer than {limit}",
                limit=limit,
                remedy="ask for less: a project, a time",
            ) from error
        except (OperationalError, InterfaceError, OSError) as error:
            raise unavailable("the read model cannot be reached") from error
        finally:
            self._places.release()

    async def one(self, statement: LiteralString, parameters: Mapping[str, object]) -> Row | None:
        rows = await self.rows(statement, parameters)
        return rows[0] if rows else None

    async def _take_place(self) -> None:
        if not self._places.locked():
            await self._places.acquire()
            return
        if self._waiting >= WAITING_MAX:
            raise unavailable(f"{WAITING_MAX} reads wait already")
        self._waiting += 1
        try:
            async with asyncio.timeout(ACQUIRE_S_MAX):
                await self._places.acquire()
        except TimeoutError:
            raise unavailable(f"all connections were busy for {ACQUIRE_S_MAX:g} s") from None
        finally:
            self._waiting -= 1

    async def _tried(self, statement: LiteralString, parameters: Mapping[str, object]) -> Sequence[Row]:
        while True:
            kept = bool(self._idle)
            connection = self._idle.pop() if kept else await self._connect()
            try:
                cursor = await connection.execute(statement, parameters)
                return await cursor.fetchall()
            except FeatureNotSupported:
                # A plan that is kept does not fit a table that was changed meanwhile.
                await _close(connection)
                if not kept:
                    raise
            except Error:
                if not (kept and connection.closed):
                    raise
                # The server was restarted: the others are dead as well.
                await self._close_idle()
            finally:
                if not connection.closed and connection.info.transaction_status is TransactionStatus.IDLE:
                    self._idle.append(connection)
                else:
                    await _close(connection)

    async def _connect(self) -> AsyncConnection[TupleRow]:
        connection = await AsyncConnection.connect(
            self._dsn,
            autocommit=True,
            prepare_threshold=PREPARE_AFTER,
            connect_timeout=CONNECT_TIMEOUT_S,
            options=self._options,
            application_name="autovibe query",
            keepalives_idle=10,
            tcp_user_timeout=30_000,
        )
        connection.prepared_max = PREPARED_MAX
        return connection

    async def _close_idle(self) -> None:
        while self._idle:
            await _close(self._idle.pop())


async def _close(connection: AsyncConnection[TupleRow]) -> None:
    with suppress(Error):
        await connection.close()
