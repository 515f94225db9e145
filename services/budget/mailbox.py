"""What waits for a decision on model calls: a mailbox for each machine, and the draft of what was decided on it."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from uuid import UUID

from domain.budget import machine
from domain.budget.waiting import WaitingCall
from events.address import Address
from events.budget import BudgetEvent
from events.envelope import Cause
from events.ledger import Granted, NotGranted, Observe, Reserve, Settle, Settled, Void
from events.machine import MachineEvent
from events.words import OnExhausted
from services.budget.purses import Path, Purse, evolve
from services.kit.repository import Loaded


class UnknownCall(Exception):
    """Nobody has reserved this call, or it was resolved too long ago."""


class Busy(Exception):
    """Too many reservations of the machine wait already; ask again."""


@dataclass(frozen=True, slots=True)
class Draw:
    """Move what the machine's calls have used from reserved to used."""


@dataclass(frozen=True, slots=True)
class Expire:
    """Nobody has renewed a call for too long."""

    call_id: UUID
    reason: str
    since: datetime


Command = Reserve | Observe | Settle | Void | Draw | Expire
Answer = Granted | NotGranted | Settled | None


@dataclass(slots=True, eq=False)
class Asked:
    """A command that somebody waits for the answer of."""

    command: Command
    cause: Cause
    answer: "asyncio.Future[Answer]"
    since: datetime
    until: float = 0.0
    """By the monotonic clock: for how long a reservation may wait."""
    heard: float = 0.0
    """By the monotonic clock: when a reservation was asked for last."""
    waits: WaitingCall | None = None
    """What a reservation that waits would have of the accounts above; None: it waits for the machine's own calls."""


@dataclass(slots=True)
class Draft:
    """What has been decided for one mailbox and is not appended yet."""

    path: Path
    """As it is with all of this; the seqs are the log's, which has nothing of it yet."""
    accounts: dict[str, list[BudgetEvent]] = field(default_factory=dict[str, list[BudgetEvent]])
    machine: list[MachineEvent] = field(default_factory=list[MachineEvent])
    answers: list[tuple[Asked, Answer | Exception]] = field(default_factory=list[tuple[Asked, Answer | Exception]])
    waits: list[Asked] = field(default_factory=list[Asked])
    is_certain: bool = True
    """Whether all of it may be answered though the accounts above were not read just now."""
    taken: dict[str, int] = field(default_factory=dict[str, int])
    """How many of each account's events the path has in it."""
    taken_of_machine: int = 0

    @property
    def is_above(self) -> bool:
        """Whether something is said of the accounts that other machines share."""
        return any(events and node != self.path.where.id for node, events in self.accounts.items())

    def put(self, node: str, events: Sequence[BudgetEvent]) -> None:
        self.accounts.setdefault(node, []).extend(events)

    def advance(self) -> None:
        """Take what was decided since the last time into the path."""
        path, purses, state = self.path, dict(self.path.purses), self.path.machine
        for node, events in self.accounts.items():
            purse: Purse = purses[node].state
            for event in events[self.taken.get(node, 0) :]:
                purse = evolve(purse, event)
            purses[node] = Loaded(purse, purses[node].seq)
            self.taken[node] = len(events)
        for event in self.machine[self.taken_of_machine :]:
            state = machine.evolve(state, event)
        self.taken_of_machine = len(self.machine)
        self.path = Path(path.where, state, path.machine_seq, purses)

    def tell(self) -> None:
        """Answer all who asked."""
        for each, answer in self.answers:
            if each.answer.done():
                continue
            if isinstance(answer, Exception):
                each.answer.set_exception(answer)
            else:
                each.answer.set_result(answer)


@dataclass(slots=True)
class Mailbox:
    """What one machine asks, in the order in which it came."""

    where: Address
    asked: list[Asked] = field(default_factory=list[Asked])
    deciding: list[Asked] = field(default_factory=list[Asked])
    """Of those that were asked or waited: what `work` decides on now."""
    waiting: list[Asked] = field(default_factory=list[Asked])
    work: "asyncio.Task[None] | None" = None
    draw_due: float | None = None
    looked_at: float = 0.0
    """By the monotonic clock: when those who wait were tried last."""

    def first_above(self) -> WaitingCall | None:
        """Return the first call that waits for the accounts above, also while it is tried; None: none does."""
        every = (*self.deciding, *self.waiting)
        return next((asked.waits for asked in every if asked.waits is not None and not asked.answer.done()), None)

    def reservation(self, command: Reserve) -> Asked | None:
        """Return the same reservation, if it is asked for already and has no answer yet."""
        every = (*self.waiting, *self.deciding, *self.asked)
        return next((asked for asked in every if _is_for(asked, command)), None)

    def give_up(self, command: Void) -> bool:
        """Its client has gone: a reservation that still waits is answered, so that it is never granted.

        Returns:
            Whether it stood in others' way.
        """
        every = (*self.waiting, *self.deciding, *self.asked)
        return self._cancel([asked for asked in every if _is_for(asked, command)])

    def give_up_silent(self, since: float) -> bool:
        """The same of those that wait and were not asked for again since then: their gateway has gone."""
        return self._cancel([asked for asked in self.waiting if asked.heard < since])

    def _cancel(self, gone: Sequence[Asked]) -> bool:
        waited = len(self.waiting)
        for asked in gone:
            if isinstance(asked.command, Reserve) and not asked.answer.done():
                asked.answer.set_result(
                    NotGranted(
                        call_id=asked.command.call_id,
                        code="cancelled",
                        action=OnExhausted.REFUSE,
                        message="its client has gone",
                    )
                )
        self.waiting = [asked for asked in self.waiting if not asked.answer.done()]
        return len(self.waiting) < waited


def _is_for(asked: Asked, command: Reserve | Void) -> bool:
    same = isinstance(asked.command, Reserve) and asked.command.call_id == command.call_id
    return same and not asked.answer.done()
