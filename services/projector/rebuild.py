"""Build all tables anew from the log beside the old ones, compare them row by row, and put them in their place.

`verify` is the same without the last step: it proves that the log is whole, that the chain of hashes holds and that
the tables are what the log says. The live projector goes on meanwhile; it is held only while the read models are
compared and swapped.
"""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing
from dataclasses import dataclass, replace
from functools import partial
from typing import TypeVar

from services.kit.errors import LogGap, LogRegressed
from services.kit.log import Log
from services.projector.errors import Halted
from services.projector.rows import Batch, cut, prepare
from services.projector.shadow import Difference, Shadow
from services.projector.writer import Position, Writer

SCHEMA = "rebuild"
BATCH_EVENTS = 10_000

T = TypeVar("T")
Progress = Callable[[int, int], None]
"""Called with the seq that was reached and the one to be reached."""


class AlreadyRebuilding(RuntimeError):
    """Another rebuild or verification of this database is under way."""


@dataclass(frozen=True, slots=True)
class Report:
    """What a rebuild or a verification found."""

    position: int
    """Up to here log and tables were compared."""
    hash: str
    """Head of the chain as computed from the log, hex."""
    problems: tuple[str, ...]
    """What is wrong with the log or the position; empty: nothing."""
    differences: tuple[Difference, ...]
    """Tables whose rows are not what the log says; empty: none."""
    swapped: bool = False

    @property
    def ok(self) -> bool:
        return not self.problems and not self.differences


async def verify(log: Log, dsn: str, progress: Progress | None = None) -> Report:
    """Read the whole log again and compare chain, copy and read models with it. Changes nothing.

    Raises:
        AlreadyRebuilding: Only one of these at a time.
    """
    return await _build(log, dsn, swap=False, accept_differences=False, progress=progress)


async def rebuild(log: Log, dsn: str, *, accept_differences: bool = False, progress: Progress | None = None) -> Report:
    """Build the tables anew and swap them in when they equal the old ones, or when differences are accepted.

    The swap is one transaction: readers see the old rows or the new ones. A halted projection goes on afterwards.

    Raises:
        AlreadyRebuilding: Only one of these at a time.
    """
    return await _build(log, dsn, swap=True, accept_differences=accept_differences, progress=progress)


async def _build(log: Log, dsn: str, *, swap: bool, accept_differences: bool, progress: Progress | None) -> Report:
    with ThreadPoolExecutor(1, "rebuild") as thread:

        async def run(work: Callable[[], T]) -> T:
            return await asyncio.get_running_loop().run_in_executor(thread, work)

        shadow = await run(partial(Shadow, dsn, SCHEMA))
        try:
            if not await run(shadow.claim):
                raise AlreadyRebuilding("another rebuild or verification is under way")
            return await _Build(log, dsn, shadow, progress).build(swap=swap, accept_differences=accept_differences)
        finally:
            await run(shadow.close)


class _Build:
    """One rebuild from the first event on."""

    def __init__(self, log: Log, dsn: str, shadow: Shadow, progress: Progress | None) -> None:
        self._log = log
        self._dsn = dsn
        self._shadow = shadow
        self._progress = progress

    async def build(self, *, swap: bool, accept_differences: bool) -> Report:
        shadow = self._shadow
        await asyncio.to_thread(shadow.make)
        extent = await self._log.extent()
        live = await asyncio.to_thread(shadow.live)
        problems = _problems(live, extent.created_at, extent.last_seq)
        # An unusable position is no aim: then everything there is is built.
        aim = extent.last_seq if problems else live.seq
        writer = await asyncio.to_thread(partial(Writer, self._dsn, schema=SCHEMA))
        try:
            built = await asyncio.to_thread(partial(writer.take_over, extent.created_at))
            built, broken = await self._fold(writer, built, aim)
            differences = [await asyncio.to_thread(partial(shadow.compare_events, 0, aim))]
            if swap:
                await asyncio.to_thread(shadow.index)
            live = await asyncio.to_thread(shadow.hold)
            if not problems and broken is None and live.seq > aim:
                built, broken = await self._fold(writer, built, live.seq)
                differences.append(await asyncio.to_thread(partial(shadow.compare_events, aim, live.seq)))
        finally:
            await asyncio.to_thread(writer.close)
        problems += [broken] if broken else []
        if not problems and built.hash != live.hash:
            problems.append(f"the chain of the tables ends in {live.hash.hex()}, that of the log in {built.hash.hex()}")
        differences += await asyncio.to_thread(shadow.compare_models)
        report = Report(
            built.seq, built.hash.hex(), tuple(problems), _merged([found for found in differences if found is not None])
        )
        if swap and broken is None and (report.ok or accept_differences):
            await asyncio.to_thread(partial(shadow.swap, built))
            return replace(report, swapped=True)
        return report

    async def _fold(self, writer: Writer, built: Position, aim: int) -> tuple[Position, str | None]:
        """Fold the log into the shadow up to `aim`. Returns where it got, and why it got no further."""
        queue: asyncio.Queue[Batch | None] = asyncio.Queue(1)
        reached = [built]
        broken: str | None = None
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._read(queue, built, aim))
                group.create_task(self._write(queue, writer, reached, aim))
        except* (Halted, LogGap, LogRegressed) as halted:
            broken = str(halted.exceptions[0])
        return reached[0], broken

    async def _read(self, queue: asyncio.Queue[Batch | None], built: Position, aim: int) -> None:
        after, head = built.seq, built.hash
        if after < aim:
            async with aclosing(self._log.follow_raw(after, batch=BATCH_EVENTS, stop_at_end=True)) as arrived:
                async for messages in arrived:
                    wanted = [message for message in messages if message.seq <= aim]
                    for part in cut(wanted, BATCH_EVENTS):
                        batch = prepare(part, after, head)
                        after, head = batch.upto, batch.hash
                        await queue.put(batch)
                    if after >= aim or len(wanted) < len(messages):
                        break
        await queue.put(None)

    async def _write(
        self, queue: asyncio.Queue[Batch | None], writer: Writer, reached: list[Position], aim: int
    ) -> None:
        while (batch := await queue.get()) is not None:
            if len(batch):
                await asyncio.to_thread(partial(writer.write, batch))
                reached[0] = Position(batch.upto, batch.hash, reached[0].stream_created)
                if self._progress is not None:
                    self._progress(batch.upto, aim)
            if batch.broken is not None:
                raise Halted(batch.broken)


def _problems(live: Position, created_at: object, last_seq: int) -> list[str]:
    problems: list[str] = []
    if live.stream_created not in {None, created_at}:
        problems.append(
            f"the tables come from a stream made at {live.stream_created}, this one was made at {created_at}"
        )
    if live.seq > last_seq:
        problems.append(f"the tables are at seq {live.seq}, the log ends at {last_seq}")
    return problems


def _merged(differences: list[Difference]) -> tuple[Difference, ...]:
    """Add up what was compared in two parts."""
    by_table: dict[str, Difference] = {}
    for found in differences:
        known = by_table.get(found.table)
        by_table[found.table] = found if known is None else known + found
    return tuple(by_table.values())
