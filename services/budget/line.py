"""The line of queued machines and what projects have: heard from the log, kept nowhere else, tried whenever that changed.

It is what makes a decision taken beside a settlement harmless: a machine that was queued while room was being made is
tried again because its own MachineQueued is heard, in the log's order, by every instance.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from dataclasses import dataclass
from datetime import datetime

import structlog

from domain.budget.queue import Queue, Waiting
from events.envelope import Recorded
from events.ids import HUB
from events.machine import MachineQueued
from services.kit.errors import KitError
from services.kit.health import Part
from services.kit.log import Log
from services.kit.message import decode

_NAMES = {
    "machine": frozenset({"MachineQueued", "MachineAdmitted", "MachineDenied", "MachineEnded"}),
    "project": frozenset({"ProjectCreated", "ProjectUpdated"}),
    "budget": frozenset({"BudgetAllocated", "BudgetSettled", "BudgetReleased"}),
}
FILTERS = (
    *(f"av.*.{aggregate}.*.{name}" for aggregate, names in _NAMES.items() for name in sorted(names)),
    *(
        f"av.{HUB}.budget.{HUB}.{name}"
        for name in ("BudgetReserved", "BudgetExtended", "BudgetDrawn", "BudgetRefused", "SharesRebalanced")
    ),
)
"""All that puts somebody into the line, takes them out, makes room, or says what projects have of the hub's account."""
CATCH_UP_BATCH = 5_000
HEARD_S_MAX = 5.0
REBALANCE_S_MIN = 1.0
"""Shares are said at most so often."""
PAUSE_MIN_S = 0.5
PAUSE_MAX_S = 60.0
BUGS_SHOWN_MAX = 3
BUG_CHARS_MAX = 300

_log: structlog.stdlib.BoundLogger = structlog.get_logger("budget")

Try = Callable[[Waiting, Recorded], Awaitable[None]]
"""Try a queued machine again, before which nobody stands: who waits, and its newest MachineQueued."""
Rebalance = Callable[[], Awaitable[None]]
"""Say the shares that have moved."""


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

    def __init__(  # noqa: PLR0917 - what it works with, once
        self,
        log: Log,
        attempt: Try,
        rebalance: Rebalance,
        look_s: float,
        machines_max: int,
        now: Callable[[], datetime],
    ) -> None:
        self._log = log
        self._try = attempt
        self._rebalance = rebalance
        self._rebalance_at = 0.0
        """By the monotonic clock: when shares are next said, if they have moved."""
        self._unsaid = False
        """They have."""
        self._look_s = look_s
        self._now = now
        self.queue = Queue(machines_max)
        self._newest: dict[str, Recorded] = {}
        """What was last said of each that waits."""
        self._troubles: dict[str, _Trouble] = {}
        self._position = 0
        self._changed = asyncio.Event()
        self._heard = asyncio.Condition()

    def __len__(self) -> int:
        return len(self.queue.waiting)

    def ahead(self, who: Waiting) -> Waiting | None:
        """Return who stands before a machine, whether it is in the line already or not.

        Whoever could not be tried stands before nobody.
        """
        return self.queue.ahead_of(who, self._now(), self._troubles)

    def count(self, slug: str) -> int:
        """Return how many machines of a project wait."""
        return self.queue.count(slug)

    def since(self) -> dict[str, tuple[str, datetime]]:
        """Return everybody in the line: their project and when they were first queued."""
        return {who: (waiting.slug, waiting.since) for who, waiting in self.queue.waiting.items()}

    async def catch_up(self) -> None:
        """Read the line from the log's beginning to its present end.

        Without filters, of which the server is slow to follow several; what is not heard is not even parsed.
        """
        batches = self._log.follow_raw(batch=CATCH_UP_BATCH, stop_at_end=True)
        async with aclosing(batches):
            async for messages in batches:
                self._hear([decode(message) for message in messages if _is_heard(message.subject)])
                self._position = messages[-1].seq
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

        Whoever could not be tried is tried again after a pause that grows; meanwhile nobody stands behind it.
        """
        while True:
            try:
                async with asyncio.timeout(self._pause_s()):
                    await self._changed.wait()
            except TimeoutError:
                pass  # a period may have ended, which nobody says
            self._changed.clear()
            await self._try_all()
            await self._say_shares()

    def health(self) -> Part:
        """Whether everybody who was tried was decided on; an error that nobody expected needs a human."""
        bugs = [f"{who} could not be tried: {trouble.bug}" for who, trouble in self._troubles.items() if trouble.bug]
        return Part("line", ok=not bugs, detail="; ".join([f"{len(self)} machines queued", *bugs[:BUGS_SHOWN_MAX]]))

    def _pause_s(self) -> float:
        now = time.monotonic()
        due = [trouble.until - now for trouble in self._troubles.values()]
        if self._unsaid:
            due.append(self._rebalance_at - now)
        return max(0.0, min([self._look_s, *due]))

    async def _say_shares(self) -> None:
        """Say how what is scarce is shared, where that moved; a change within a second of the last is said after it."""
        now = time.monotonic()
        self._unsaid = bool(self.queue.rebalanced(self._now()))
        if not self._unsaid:
            return
        if now < self._rebalance_at:
            return
        self._rebalance_at = now + REBALANCE_S_MIN
        try:
            await self._rebalance()
        except KitError as error:
            _log.warning("shares.unsaid", reason=str(error))

    async def _try_all(self) -> None:
        """Try everybody before whom nobody stands; when one goes that is heard, and the next is tried."""
        waiting, clock = self.queue.waiting, time.monotonic()
        again = [waiting[who] for who, trouble in self._troubles.items() if trouble.until <= clock and who in waiting]
        for each in (*again, *self.queue.firsts(self._now(), self._troubles)):
            who = str(each.machine_id)
            if who in self.queue.waiting:
                await self._try_one(who, each, self._newest[who])

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
        if who in self.queue.waiting:
            self._troubles[who] = trouble
        return trouble

    def _hear(self, batch: list[Recorded]) -> None:
        for recorded in batch:
            where = recorded.envelope.address
            self.queue.hear(where, recorded.event, recorded.recorded_at)
            self._position = recorded.seq
            if isinstance(recorded.event, MachineQueued):
                self._newest[where.id] = recorded
            elif where.id not in self.queue.waiting:
                self._newest.pop(where.id, None)
                self._troubles.pop(where.id, None)


def _is_heard(subject: str) -> bool:
    _, project, aggregate, who, name = subject.split(".", 4)
    return name in _NAMES.get(aggregate, ()) or (aggregate == "budget" and who == HUB and project == HUB)
