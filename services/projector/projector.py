"""The one loop: read what has arrived, validate and chain it, write it; while the database works the next is prepared.

A term begins with the leadership and ends with an error. What passes (a database or log that is away, another
projector) begins another term; what does not pass halts until somebody has looked.
"""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing
from dataclasses import dataclass
from functools import partial
from typing import Protocol, TypeVar, cast

import psycopg
import structlog

from services.kit.errors import LogGap, LogRegressed, Transient
from services.kit.log import Log
from services.kit.wire import ApiError
from services.projector.chain import header_values, link
from services.projector.errors import Fenced, Halted
from services.projector.rows import Batch, cut, prepare
from services.projector.settings import ProjectorSettings
from services.projector.writer import Position, Writer

STANDBY_S = 0.5
"""How often a second projector tries whether it is the first now."""
RETRY_S = 0.1
OVERLAP_EVENTS = 256
"""A smaller batch is written before more is read: what arrives meanwhile goes into one transaction, not behind two."""

T = TypeVar("T")
_log: structlog.stdlib.BoundLogger = structlog.get_logger("projector")


class Watcher(Protocol):
    """Hears how the projection goes; metrics and tests."""

    def on_written(self, batch: Batch) -> None: ...


@dataclass(slots=True)
class State:
    """How the projector stands, for its health answer."""

    word: str = "starting"
    """starting, standby, running, retrying, halted"""
    detail: str = ""
    position: int = 0
    log_end: int = 0
    careful_until: int = 0
    """Up to here one event per transaction, so that the one the database refuses is named."""


@dataclass(frozen=True, slots=True)
class Head:
    """The end of the chain, and what it takes to prove it."""

    seq: int
    hash: bytes
    previous: bytes


class Projector:
    """Projects the log into the live tables for as long as `run` runs."""

    def __init__(self, log: Log, settings: ProjectorSettings, watcher: Watcher | None = None) -> None:
        self._log = log
        self._settings = settings
        self._watcher = watcher
        self._thread = ThreadPoolExecutor(1, "projector")
        self.state = State()

    async def run(self) -> None:
        """Project until cancelled."""
        pause_s = RETRY_S
        try:
            while True:
                before = self.state.position
                try:
                    await self._term()
                except Halted as reason:
                    await self._halted(str(reason))
                    continue
                except (psycopg.Error, Transient, ApiError, Fenced, OSError) as error:
                    self.state.word, self.state.detail = "retrying", _one_line(error)
                    _log.warning("projector.interrupted", position=self.state.position, reason=self.state.detail)
                pause_s = (
                    RETRY_S if self.state.position > before else min(pause_s * 2, self._settings.projector_retry_s_max)
                )
                await asyncio.sleep(pause_s)
        finally:
            self._thread.shutdown(wait=False)

    async def _term(self) -> None:
        """Lead, check that log and tables fit together, and follow until something goes wrong."""
        writer = await self._connected()
        try:
            while not await self._in_thread(writer.try_lead):
                self.state.word, self.state.detail = "standby", "another projector leads"
                await asyncio.sleep(STANDBY_S)
            extent = await self._log.extent()
            position = await self._in_thread(partial(writer.take_over, extent.created_at))
            head = await self._checked(writer, position)
            await self._in_thread(writer.run)
            self.state.word, self.state.detail, self.state.position = "running", "", head.seq
            _log.info("projector.started", position=head.seq, log_end=extent.last_seq)
            await self._follow(writer, head)
        except Halted as reason:
            await self._in_thread(partial(writer.halt, str(reason)))
            raise
        finally:
            # After a write that is under way: the thread does one thing at a time.
            await asyncio.shield(self._in_thread(writer.close))

    async def _connected(self) -> Writer:
        connecting = asyncio.ensure_future(self._in_thread(partial(Writer, self._settings.database_url)))
        try:
            return await asyncio.shield(connecting)
        except asyncio.CancelledError:
            connecting.add_done_callback(_close)
            raise

    async def _checked(self, writer: Writer, position: Position) -> Head:
        """Return where to go on, once the log is the one the tables come from and still says what it said."""
        previous = await self._in_thread(partial(writer.previous_hash, position.seq)) if position.seq else b""
        if previous is None:
            raise Halted(f"the tables are at seq {position.seq}, but events has no such row; remedy: a rebuild")
        head = Head(position.seq, position.hash, previous)
        await check_log(self._log, head, position)
        return head

    async def _follow(self, writer: Writer, head: Head) -> None:
        queue: asyncio.Queue[Batch] = asyncio.Queue(1)
        current = [head]
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._read(queue, head))
                group.create_task(self._write(writer, queue, current))
                group.create_task(self._watch(current))
        except BaseExceptionGroup as group:
            halts, others = group.split((Halted, LogGap, LogRegressed))
            if halts is not None:
                raise Halted(_one_line(_first(halts))) from group
            raise _first(others or group) from group

    async def _read(self, queue: asyncio.Queue[Batch], head: Head) -> None:
        after, hash_ = head.seq, head.hash
        limit = self._settings.projector_batch_events
        async with aclosing(self._log.follow_raw(after, batch=limit)) as arrived:
            async for messages in arrived:
                for part in cut(messages, 1 if after < self.state.careful_until else limit):
                    batch = prepare(part, after, hash_)
                    after, hash_ = batch.upto, batch.hash
                    await queue.put(batch)
                    if len(batch) < OVERLAP_EVENTS:
                        await queue.join()

    async def _write(self, writer: Writer, queue: asyncio.Queue[Batch], current: list[Head]) -> None:
        while True:
            batch = await queue.get()
            if len(batch):
                await self._write_one(writer, batch)
                current[0] = Head(batch.upto, batch.hash, batch.previous)
            if batch.broken is not None:
                raise Halted(batch.broken)
            queue.task_done()

    async def _write_one(self, writer: Writer, batch: Batch) -> None:
        try:
            await self._in_thread(partial(writer.write, batch))
        except (psycopg.DataError, psycopg.IntegrityError, psycopg.ProgrammingError) as error:
            if len(batch) == 1:
                raise Halted(f"seq {batch.upto} is refused by the database: {_one_line(error)}") from error
            self.state.careful_until = batch.upto
            raise
        self.state.position = batch.upto
        if self._watcher is not None:
            self._watcher.on_written(batch)

    async def _watch(self, current: list[Head]) -> None:
        """Look now and then whether the log is still the log: numbers used again are seen even while nothing arrives."""
        position = Position(0, b"", (await self._log.extent()).created_at)
        while True:
            await asyncio.sleep(self._settings.projector_check_s)
            self.state.log_end = await check_log(self._log, current[0], position)

    async def _halted(self, reason: str) -> None:
        """Say so and wait until somebody has set the projection running again (an upgrade restarts the process)."""
        self.state.word, self.state.detail = "halted", reason
        _log.error("projector.halted", position=self.state.position, reason=reason)
        while True:
            await asyncio.sleep(self._settings.projector_check_s)
            try:
                if await self._in_thread(partial(_runs_again, self._settings.database_url)):
                    return
            except psycopg.Error as error:
                _log.warning("projector.halted_and_database_away", reason=_one_line(error))

    async def _in_thread(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)


async def check_log(log: Log, head: Head, position: Position) -> int:
    """Return the log's last seq, once it is certain that the log is the one that was projected up to `head`.

    Raises:
        Halted: It is another one, or it ends before the position, or the event there is another one by now.
    """
    extent = await log.extent()
    if position.stream_created not in {None, extent.created_at}:
        raise Halted(
            f"the stream was made at {extent.created_at}, the tables come from one made at {position.stream_created}"
        )
    if extent.last_seq < head.seq:
        raise Halted(str(LogRegressed(head.seq, extent.last_seq)))
    if head.seq:
        message = await log.reader.get(head.seq)
        if message is None:
            raise Halted(f"seq {head.seq} was projected and is no longer in the log")
        if (
            link(head.previous, head.seq, message.subject_bytes, header_values(message.header), message.data)
            != head.hash
        ):
            raise Halted(f"seq {head.seq} is another event than the one that was projected: numbers were used again")
    return extent.last_seq


def _close(connecting: asyncio.Future[Writer]) -> None:
    """Close a connection that came when nobody waited for it any more."""
    if not connecting.cancelled() and connecting.exception() is None:
        connecting.result().close()


def _runs_again(dsn: str) -> bool:
    with psycopg.connect(dsn, connect_timeout=10) as connection:
        row = connection.execute("SELECT state FROM public.projection WHERE name = 'live'").fetchone()
        return row is not None and row[0] == "running"


def _first(group: BaseException) -> BaseException:
    while isinstance(group, BaseExceptionGroup):
        group = cast("BaseExceptionGroup[BaseException]", group).exceptions[0]
    return group


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:1000] or type(error).__name__
