"""Model calls of machines: each machine has a mailbox, and what waits in it is decided together and appended at once.

So thirty calls of one machine cost one commit, and calls of different machines share one in the log's appender.
"""

import asyncio
import time
from collections.abc import Callable, Iterable
from datetime import datetime, timedelta

import structlog

from domain.budget.calls import Amounts
from domain.budget.queue import Queue
from domain.budget.waiting import WaitingCall, in_turn, may_have
from events import address
from events.address import Address
from events.envelope import Cause
from events.ledger import POLL_S, Call, Granted, NotGranted, Observe, Reserve, Settle, Void, Waiting
from services.budget.commits import Commits
from services.budget.drafting import Drafter
from services.budget.mailbox import Answer, Asked, Busy, Command, Draft, Draw, Expire, Mailbox, UnknownCall
from services.budget.prices import PriceBook
from services.budget.purses import Purses
from services.budget.settings import BudgetSettings
from services.kit.errors import LogFull, Transient
from services.kit.log import Log

TOGETHER_MAX = 64
"""New commands of one machine that are decided together, and as many of those that wait."""
RELEASE_PAUSE_S = 0.05
"""Those who wait are tried again at most so often: with hundreds of them each time costs as much."""
SILENCE_S = 15.0
"""A reservation that waits and is not asked for again for so long beyond `POLL_S` is given up: its gateway has gone.

Longer than `services.kit.ledger.ANSWER_S`: an answer may have been lost.
"""
WAITING_MAX = 1_000
"""Reservations of one machine that may wait; what is beyond is asked to come again."""

_log: structlog.stdlib.BoundLogger = structlog.get_logger("budget")


class CallDesk:
    """Decides on model calls until its tasks are cancelled."""

    def __init__(
        self, log: Log, prices: PriceBook, settings: BudgetSettings, queue: Queue, now: Callable[[], datetime]
    ) -> None:
        self._settings = settings
        self._now = now
        self._purses = Purses(log)
        self._commits = Commits(log, self._purses, Drafter(prices, settings, self._may_have, now))
        self._boxes: dict[Address, Mailbox] = {}
        self._queue = queue
        self._tasks: asyncio.TaskGroup | None = None
        self._moved = asyncio.Event()
        """Somebody who waits for the accounts above may have room, or its turn."""
        self._is_all_moved = False
        """Those who wait for calls of their own machine may have room, too."""

    def begin(self, tasks: asyncio.TaskGroup) -> None:
        self._tasks = tasks

    async def ask(self, command: Observe | Settle | Void, actor: str) -> Answer:
        """Decide and append; returns when it is durable.

        Raises:
            UnknownCall: It settles what nobody reserved.
            Transient, LogFull: It is not known to be stored; ask again.
        """
        return await self._submit(address.machine(command.project, command.machine_id), command, actor)

    async def reserve(self, ask: Reserve, actor: str) -> Granted | NotGranted | Waiting:
        """Return what was decided once it is durable, or that it waits; who asks again has the place that it had.

        Raises:
            Busy: Too many of the machine wait.
            Transient, LogFull: As `ask`.
        """
        box = self._box(address.machine(ask.project, ask.machine_id))
        asked = box.reservation(ask)
        if asked is None:
            if len(box.asked) + len(box.deciding) + len(box.waiting) >= WAITING_MAX:
                raise Busy(f"{WAITING_MAX} commands of {box.where} wait already")
            asked = self._put(box, ask, actor)
        elif asked in box.waiting and box.looked_at < time.monotonic() - POLL_S:
            self._wake(box)  # another instance may have decided on it
        asked.heard = time.monotonic()
        await asyncio.wait({asked.answer}, timeout=POLL_S)
        if not asked.answer.done():
            return Waiting(call_id=ask.call_id, ask_again=True)
        answer = asked.answer.result()
        assert isinstance(answer, Granted | NotGranted), "what a reservation is answered with"
        return answer

    async def expire(self, call: Call, reason: str, since: datetime) -> None:
        await self._submit(
            address.machine(call.project, call.machine_id), Expire(call.call_id, reason, since), "budget"
        )

    def owe(self, machines: Iterable[Address]) -> None:
        """Draw what calls of these have used before this instance was there; they may never call again."""
        for where in machines:
            self._boxes.setdefault(where, Mailbox(where)).draw_due = time.monotonic()

    def budgets_moved(self) -> None:
        """Something was settled, released or allocated: whoever waits is tried again."""
        self._is_all_moved = True
        self._moved.set()

    async def release(self) -> None:
        """Try those who wait when something has moved, one after the other in their turn, for ever."""
        while True:
            await self._moved.wait()
            self._moved.clear()
            is_all, self._is_all_moved = self._is_all_moved, False
            own = [box for box in self._boxes.values() if box.waiting and box.first_above() is None] if is_all else []
            stuck: set[str] = set()
            for call in in_turn(self._waiting(), self._queue, self._now()):
                box = self._boxes.get(address.machine(call.slug, call.machine_id))
                if box is None or call.slug in stuck:
                    continue  # nobody of a project overtakes the one before it
                await self._try_again(box)
                if box.first_above() is not None:
                    stuck.add(call.slug)
            for box in own:
                await self._try_again(box)
            await asyncio.sleep(RELEASE_PAUSE_S)

    async def _try_again(self, box: Mailbox) -> None:
        if box.work is not None:  # what it decides on may be from before
            await asyncio.wait([box.work])
        self._wake(box)
        if box.work is not None:
            await asyncio.wait([box.work])

    def _waiting(self, but: Address | None = None) -> list[WaitingCall]:
        """Return the first of each machine that waits for the accounts above."""
        firsts = (box.first_above() for box in self._boxes.values() if box.where != but)
        return [first for first in firsts if first is not None]

    async def serve(self) -> None:
        """Tell those who have waited long enough, give up whose gateway has gone, forget who has been quiet; for ever."""
        while True:
            await asyncio.sleep(self._settings.calls_look_s)
            moment = time.monotonic()
            for box in tuple(self._boxes.values()):
                if box.give_up_silent(moment - POLL_S - SILENCE_S):
                    self._moved.set()
                if any(asked.until <= moment for asked in box.waiting):
                    self._wake(box)
                elif not (box.asked or box.waiting or box.work or box.draw_due):
                    del self._boxes[box.where]
                    self._purses.forget(box.where)

    async def draw(self) -> None:
        """Draw what is due, for ever; all that is due at once, as it is appended together."""
        while True:
            await asyncio.sleep(self._settings.calls_look_s)
            moment = time.monotonic()
            due = [box for box in self._boxes.values() if box.draw_due is not None and box.draw_due <= moment]
            await asyncio.gather(*(self._draw(box) for box in due))

    async def _draw(self, box: Mailbox) -> None:
        box.draw_due = None
        try:
            await self._put(box, Draw(), "budget").answer
        except (Transient, LogFull) as error:
            box.draw_due = time.monotonic() + self._settings.draw_s
            _log.warning("calls.not_drawn", reason=str(error), again_in_s=self._settings.draw_s)

    def _box(self, where: Address) -> Mailbox:
        return self._boxes.setdefault(where, Mailbox(where))

    async def _submit(self, where: Address, command: Command, actor: str) -> Answer:
        box = self._box(where)
        if isinstance(command, Void) and box.give_up(command):
            self._moved.set()
        return await self._put(box, command, actor).answer

    def _put(self, box: Mailbox, command: Command, actor: str) -> Asked:
        answer: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        asked = Asked(command, Cause(actor), answer, self._now())
        if isinstance(command, Reserve):
            asked.since -= timedelta(seconds=command.waited_s)
            asked.until = time.monotonic() + command.wait_s
        box.asked.append(asked)
        self._wake(box)
        return asked

    def _wake(self, box: Mailbox) -> None:
        if box.work is None:
            assert self._tasks is not None, "begin was called"
            box.work = self._tasks.create_task(self._empty(box))

    async def _empty(self, box: Mailbox) -> None:
        try:
            again = box.waiting[:]
            while box.asked or again:
                box.looked_at = time.monotonic()
                tried, again = again[:TOGETHER_MAX], again[TOGETHER_MAX:]
                box.waiting = [asked for asked in box.waiting if asked not in tried]
                taken, box.asked = box.asked[:TOGETHER_MAX], box.asked[TOGETHER_MAX:]
                # What makes room comes before what wants some.
                together = sorted((*tried, *taken), key=lambda asked: isinstance(asked.command, Reserve))
                box.deciding = [asked for asked in together if not asked.answer.done()]
                moved = await self._together(box, box.deciding)
                box.deciding = []
                if moved:
                    again = box.waiting[:]
        finally:
            box.work = None
        if box.asked:
            self._wake(box)

    async def _together(self, box: Mailbox, asked: list[Asked]) -> bool:
        """Decide on all of these and append it; returns whether something was resolved, so that others may fit."""
        try:
            draft = await self._commits.commit(box.where, asked)
        except (Transient, LogFull) as error:
            self._purses.forget(box.where)
            for each in asked:
                if not each.answer.done():
                    each.answer.set_exception(type(error)(str(error)))
            return False
        except Exception as error:  # noqa: BLE001 # the edge: whoever asks gets an answer, and the next one is served
            _log.error("calls.failed", address=str(box.where), exc_info=error)
            self._purses.forget(box.where)
            for each in asked:
                if not each.answer.done():
                    each.answer.set_exception(Transient(f"the budget failed: {type(error).__name__}"))
            return False
        draft.tell()
        box.waiting += [each for each in draft.waits if not each.answer.done()]
        self._after(box, draft)
        if any(each.waits is not None and each.answer.done() for each in asked):
            self._moved.set()  # who stood behind it is next
        return any(isinstance(each.command, Settle | Void | Expire) for each in asked)

    def _after(self, box: Mailbox, draft: Draft) -> None:
        if draft.path.own.calls.undrawn and box.draw_due is None:
            box.draw_due = time.monotonic() + self._settings.draw_s

    def _may_have(self, where: Address, who: WaitingCall, more: Amounts) -> bool:
        return may_have(who, more, self._waiting(but=where), self._queue, self._now())


__all__ = ["Busy", "CallDesk", "UnknownCall"]
