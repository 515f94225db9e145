"""The line of queued machines: heard from the log, kept nowhere else, and tried again whenever something changed.

It is what makes a decision taken beside a settlement harmless: a machine that was queued while room was being made is
tried again because its own MachineQueued is heard, in the log's order, by every instance.
"""

import asyncio
import time
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
from services.kit.health import Part
from services.kit.log import Log

FILTERS = (
    *(f"av.*.machine.*.{name}" for name in ("MachineQueued", "MachineAdmitted", "MachineDenied", "MachineEnded")),
    *(f"av.*.budget.*.{name}" for name in ("BudgetAllocated", "BudgetSettled", "BudgetReleased")),
)
"""All that puts somebody into the line, takes them out, or makes room."""
HEARD_S_MAX = 5.0
PAUSE_MIN_S = 0.5
PAUSE_MAX_S = 60.0
BUGS_SHOWN_MAX = 3
BUG_CHARS_MAX = 300

_log: structlog.stdlib.BoundLogger = structlog.get_logger("budget")

Try = Callable[[Waiting, Recorded], Awaitable[None]]
"""Try a queued machine again, before which nobody stands: who waits, and its newest MachineQueued."""


@dataclass(slots=True)
class _Place:
    """Since when a machine waits, and what was last said of it."""

    since: datetime
    newest: Recorded


@dataclass(frozen=True, slots=True)
class _Trouble:
    """That a machine could not be tried."""

    pause_s: float
    until: float
    """By the monotonic clock: when it is tried again."""
    bug: str
    """The error, when it was none that is expected."""


class Line:
    """Who waits, as far as this instance has heard."""

    def __init__(self, log: Log, attempt: Try, look_s: float) -> None:
        self._log = log
        self._try = attempt
        self._look_s = look_s
        self._queue = Queue()
        self._places: dict[str, _Place] = {}
        self._troubles: dict[str, _Trouble] = {}
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
        """Try whoever is first, again and again, for ever: when something was heard, and every `look_s`.

        Whoever could not be tried is tried again after a pause that grows, and keeps nobody from being tried who does
        not stand behind it.
        """
        while True:
            try:
                async with asyncio.timeout(self._pause_s()):
                    await self._changed.wait()
            except TimeoutError:
                pass  # a period may have ended, which nobody says
            self._changed.clear()
            await self._try_all()

    def health(self) -> Part:
        """Whether everybody who was tried was decided on; an error that nobody expected needs a human."""
        bugs = [f"{who} could not be tried: {trouble.bug}" for who, trouble in self._troubles.items() if trouble.bug]
        return Part("line", ok=not bugs, detail="; ".join([f"{len(self)} machines queued", *bugs[:BUGS_SHOWN_MAX]]))

    def _pause_s(self) -> float:
        now = time.monotonic()
        return max(0.0, min([self._look_s, *(trouble.until - now for trouble in self._troubles.values())]))

    async def _try_all(self) -> None:
        """Try everybody before whom nobody stands; when one goes that is heard, and the next is tried."""
        for who, waiting in tuple(self._queue.waiting.items()):
            place, trouble = self._places.get(who), self._troubles.get(who)
            if place is None or self.ahead(waiting.slug, waiting.machine_id) is not None:
                continue
            if trouble is None or trouble.until <= time.monotonic():
                await self._try_one(who, waiting, place.newest)

    async def _try_one(self, who: str, waiting: Waiting, newest: Recorded) -> None:
        try:
            await self._try(waiting, newest)
        except KitError as error:
            trouble = self._failed(who, "")
            _log.warning("line.interrupted", machine_id=who, reason=str(error), again_in_s=trouble.pause_s)
        except Exception as error:  # noqa: BLE001 # the edge: one machine must not end the budget of all
            trouble = self._failed(who, f"{type(error).__name__}: {error}"[:BUG_CHARS_MAX])
            _log.error("line.failed", machine_id=who, again_in_s=trouble.pause_s, exc_info=error)
        else:
            self._troubles.pop(who, None)

    def _failed(self, who: str, bug: str) -> _Trouble:
        before = self._troubles.get(who)
        pause_s = min(PAUSE_MAX_S, before.pause_s * 2) if before else PAUSE_MIN_S
        trouble = _Trouble(pause_s, time.monotonic() + pause_s, bug)
        if who in self._queue.waiting:
            self._troubles[who] = trouble
        return trouble

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
                self._troubles.pop(where.id, None)
