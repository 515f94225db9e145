"""How far the read model is, and waiting until it is far enough.

One connection listens for the projector's notices; every waiter is woken by it. A consistency token (`at_least_seq`)
that is not reached within the deadline is refused, never answered stale.
"""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from typing import LiteralString

import psycopg
import structlog

from services.query.problems import HttpProblem

CHANNEL: LiteralString = "autovibe_position"
WAIT_S_MAX = 5.0
WAITERS_MAX = 1_000
RECONNECT_S = 0.5
LOOK_S = 2.0
"""Without a notice for this long the row is read: a notice may be lost with its connection."""
ANSWER_S_MAX = 3.0

_SQL_POSITION = "SELECT position, state, coalesce(halted_reason, '') FROM projection WHERE name = 'live'"

_log: structlog.stdlib.BoundLogger = structlog.get_logger("query")


class Position:
    """The projector's position as this process knows it."""

    def __init__(self, dsn: str, *, wait_s: float = WAIT_S_MAX) -> None:
        self._dsn = dsn
        self._wait_s = wait_s
        self._moved = asyncio.Condition()
        self._waiters = 0
        self.seq = 0
        self.state = "unknown"
        """`running`, `halted`, or `unknown` before the first look."""
        self.halted_reason = ""
        self.listening = False
        """Whether `seq` is current to within milliseconds."""

    async def at_least(self, seq: int) -> None:
        """Return as soon as the read model contains event `seq`.

        Raises:
            HttpProblem: 503, it did not within the deadline, or too many wait already.
        """
        if self.seq >= seq:
            return
        if self._waiters >= WAITERS_MAX:
            raise self._behind(seq, f"{WAITERS_MAX} requests wait already")
        self._waiters += 1
        try:
            async with asyncio.timeout(self._wait_s), self._moved:
                await self._moved.wait_for(lambda: self.seq >= seq)
        except TimeoutError:
            raise self._behind(seq, f"it did not get there within {self._wait_s:g} s") from None
        finally:
            self._waiters -= 1

    def _behind(self, seq: int, why: str) -> HttpProblem:
        return HttpProblem(
            503,
            "behind",
            f"the read model is at event {self.seq}, asked for {seq}: {why}",
            field="at_least_seq",
            value=str(seq),
            limit=str(self.seq),
            remedy="ask again; autovibe projector status says whether the projector runs",
            headers={"Retry-After": "1"},
        )

    @asynccontextmanager
    async def listened(self) -> AsyncGenerator[None]:
        """Keep the position current while the context is open."""
        listener = asyncio.create_task(self._listen())
        try:
            yield
        finally:
            listener.cancel()
            with suppress(asyncio.CancelledError):
                await listener

    async def _listen(self) -> None:
        while True:
            try:
                async with await psycopg.AsyncConnection.connect(
                    self._dsn, autocommit=True, connect_timeout=5, application_name="autovibe query position"
                ) as connection:
                    await connection.execute(b"LISTEN " + CHANNEL.encode())
                    while True:
                        await self._look(connection)
                        async for notice in connection.notifies(timeout=LOOK_S):
                            # One that was sent before the look and read after it says nothing new.
                            if notice.payload.isdigit() and int(notice.payload) > self.seq:
                                await self._move(int(notice.payload))
            except (psycopg.Error, OSError, TimeoutError) as error:
                _log.warning("position.lost", reason=str(error)[:300] or type(error).__name__)
            self.listening = False
            await asyncio.sleep(RECONNECT_S)

    async def _look(self, connection: psycopg.AsyncConnection) -> None:
        async with asyncio.timeout(ANSWER_S_MAX):
            row = await (await connection.execute(_SQL_POSITION)).fetchone()
        self.listening = True
        if row is not None:
            seq, self.state, self.halted_reason = int(row[0]), str(row[1]), str(row[2])
            await self._move(seq)

    async def _move(self, seq: int) -> None:
        if seq != self.seq:
            async with self._moved:
                self.seq = seq
                self._moved.notify_all()
