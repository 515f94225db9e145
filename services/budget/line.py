"""The line of queued machines: heard from the log, kept nowhere else, and tried again whenever something changed.

It is what makes a decision taken beside a settlement harmless: a machine that was queued while room was being made is
tried again because its own MachineQueued is heard, in the log's order, by every instance.
"""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

import structlog

from domain.budget.queue import Queue, Waiting
from events.envelope import Recorded
from events.machine import MachineQueued
from services.kit.errors import KitError
from services.kit.log import Log

FILTERS = (
    *(f"av.*.machine.*.{name}" for name in ("MachineQueued", "MachineAdmitted", "MachineDenied", "MachineEnded")),
    *(f"av.*.budget.*.{name}" for name in ("BudgetAllocated", "BudgetSettled", "BudgetReleased")),
)
"""All that puts somebody into the line, takes them out, or makes room."""
HEARD_S_MAX = 5.0

_log: structlog.stdlib.BoundLogger = structlog.get_logger("budget")

Try = Callable[[Waiting, Recorded], Awaitable[None]]
"""Try a queued machine again, before which nobody stands: who waits, and its newest MachineQueued."""


@dataclass(slots=True)
class _Place:
    """Since when a machine waits, and what was last said of it."""

    since: datetime
    newest: Recorded


class Line:
    """Who waits, as far as this instance has heard."""

    def __init__(self, log: Log, attempt: Try, look_s: float) -> None:
        self._log = log
        self._try = attempt
        self._look_s = look_s
        self._queue = Queue()
        self._places: dict[str, _Place] = {}
        self._position = 0
        self._changed = asyncio.Event()
        self._heard = asyncio.Condition()

    def __len__(self) -> int:
        return len(self._queue.waiting)

    def ahead(self, slug: str, machine_id: UUID) -> Waiting | None:
        """Return who stands before a machine, whether it is in the line already or not."""
        return self._queue.ahead_of(slug, machine_id)

    def count(self, slug: str) -> int:
        """Return how many machines of a project wait."""
        return self._queue.count(slug)

    def since(self) -> dict[str, tuple[str, datetime]]:
        """Return everybody in the line: their project and when they were first queued."""
        return {who: (waiting.slug, self._places[who].since) for who, waiting in self._queue.waiting.items()}

    async def catch_up(self) -> None:
        """Read the line from the log's beginning to its present end."""
        async with aclosing(self._log.follow(filters=FILTERS, stop_at_end=True)) as batches:
            async for batch in batches:
                self._hear(batch)
        self._changed.set()

    async def listen(self) -> None:
        """Go on hearing, for ever."""
        async with aclosing(self._log.follow(self._position, FILTERS)) as batches:
            async for batch in batches:
                self._hear(batch)
                self._changed.set()
                async with self._heard:
                    self._heard.notify_all()

    async def heard(self, seq: int) -> None:
        """Wait until what was appended at `seq` is in the line, so that who is decided on next stands behind it."""
        try:
            async with asyncio.timeout(HEARD_S_MAX), self._heard:
                await self._heard.wait_for(lambda: self._position >= seq)
        except TimeoutError:
            _log.warning("line.lagged", seq=seq, position=self._position, waited_s=HEARD_S_MAX)

    async def serve(self) -> None:
        """Try whoever is first, again and again, for ever: when something was heard, and every `look_s`."""
        while True:
            try:
                async with asyncio.timeout(self._look_s):
                    await self._changed.wait()
            except TimeoutError:
                pass  # a period may have ended, which nobody says
            self._changed.clear()
            try:
                await self._try_all()
            except KitError as error:
                _log.warning("line.interrupted", waiting=len(self), reason=str(error), again_in_s=self._look_s)

    async def _try_all(self) -> None:
        """Try everybody before whom nobody stands; when one goes that is heard, and the next is tried."""
        for waiting in tuple(self._queue.waiting.values()):
            place = self._places.get(str(waiting.machine_id))
            if place is not None and self.ahead(waiting.slug, waiting.machine_id) is None:
                await self._try(waiting, place.newest)

    def _hear(self, batch: list[Recorded]) -> None:
        for recorded in batch:
            where = recorded.envelope.address
            self._queue.hear(where, recorded.event)
            self._position = recorded.seq
            if isinstance(recorded.event, MachineQueued):
                place = self._places.setdefault(where.id, _Place(recorded.recorded_at, recorded))
                place.newest = recorded
            elif where.id not in self._queue.waiting:
                self._places.pop(where.id, None)
