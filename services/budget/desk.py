"""What the budget does with each thing it hears. Every answer is idempotent: the state shows that it was given."""

from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from decimal import Decimal
from uuid import UUID

from domain.budget import Admit, Cancel, Expire, Readmit, Settle, Standing
from domain.budget.machine import asks, asks_of_host
from domain.budget.queue import Waiting
from domain.budget.waiting import WaitingCall, in_turn
from domain.phases import QUEUE_S
from events import address
from events.address import Address
from events.budget import BudgetRequested, BudgetTopUpRequested
from events.envelope import Cause, Recorded
from events.ids import HUB
from events.machine import MachineEnded, MachineParked, MachineQueued, MachineRequested, MachineStopRequested
from events.timer import TimerFired
from events.words import Hold, Resource
from services.budget.ledger import Answer, Ledger
from services.budget.line import Line
from services.budget.settings import BudgetSettings
from services.kit.delivery import Later, Never
from services.kit.errors import LogFull
from services.kit.log import Log
from services.kit.timers import Timers

ACTOR = "budget"
LOG_FULL_DELAY_S = 10.0
CALLS_OPEN_DELAY_S = 1.0
"""Calls that were cut off by the end of their machine are settled within moments; those of a lost gateway by their lease."""


class Desk:
    """The handlers, and the line of those who wait."""

    def __init__(self, log: Log, timers: Timers, settings: BudgetSettings, now: Callable[[], datetime]) -> None:
        self._timers = timers
        self._now = now
        self._settings = settings
        self._ledger = Ledger(log, now)
        self.line = Line(log, self._try_again, self._rebalance, settings.queue_look_s, settings.machines_max, now)

    async def open(self) -> None:
        """Read who waits, and set their deadlines anew: what was set may have been lost with a crash."""
        await self.line.catch_up()
        for machine_id, (slug, since) in self.line.since().items():
            await self._set_deadline(address.machine(slug, machine_id), since)

    async def hear(self, recorded: Recorded) -> None:
        """Answer one event.

        Raises:
            Later: The log is full.
            Never: It is about a machine that cannot be.
            Transient: The outcome is unknown; hearing it again finds out.
        """
        try:
            await self._answer(recorded)
        except LogFull as error:
            raise Later(LOG_FULL_DELAY_S, str(error)) from error

    async def _answer(self, recorded: Recorded) -> None:
        where = recorded.envelope.address
        match recorded.event:
            case MachineRequested() as request:
                await self._admit(where, request, recorded)
            case MachineStopRequested():
                await self._end(where, recorded, Cancel())
            case MachineEnded() | MachineParked():
                await self._settle(_machine(where), recorded)
            case BudgetRequested() | BudgetTopUpRequested():
                await self._ledger.bring_up(where, recorded.caused(ACTOR))
            case TimerFired() as timer if timer.owner == ACTOR:
                await self._end(address.machine(timer.project, timer.subject_id), recorded, Expire())
            case _:
                pass  # a timer of another service

    async def _admit(self, where: Address, request: MachineRequested, recorded: Recorded) -> None:
        where = _machine(where)
        tariff = self._settings.tariff
        wants: dict[Resource, Decimal] = {**asks(request, tariff), **asks_of_host(request, tariff)}
        comes = MachineQueued(hold=Hold.BUDGET, node=HUB, wants=wants, greediness=request.greediness)
        who = Waiting(where.project, UUID(where.id), comes, self._now())
        answer = await self._ledger.carry_out(
            where,
            lambda now: self._command(
                now,
                self.line.ahead(who),
                queue_full=self.line.count(where.project) >= self._settings.queued_max,
            ),
            recorded.caused(ACTOR),
        )
        if _waits(answer):
            await self._set_deadline(where, recorded.recorded_at)
            if answer.seq is not None:
                await self.line.heard(answer.seq)

    async def _settle(self, where: Address, recorded: Recorded) -> None:
        answer = await self._ledger.carry_out(where, Settle, recorded.caused(ACTOR))
        if answer.calls_open:
            raise Later(CALLS_OPEN_DELAY_S, "model calls of it are not resolved yet")

    async def readmit(self, where: Address, newest: Recorded) -> None:
        """Let a parked machine in again, if there is room for it now."""
        await self._ledger.carry_out(
            where,
            lambda now: Readmit(now, self._settings.tariff, self._settings.machines_max),
            newest.caused(ACTOR, "there is room again"),
        )

    def in_turn(self, parked: Mapping[Address, tuple[MachineRequested, datetime]]) -> list[Address]:
        """Return machines that are parked, each with its request and since when, whoever is to be tried first at the front."""
        calls = [
            WaitingCall(where.project, UUID(where.id), asks(request, self._settings.tariff), since, request.greediness)
            for where, (request, since) in parked.items()
        ]
        turns = in_turn(calls, self.line.queue, self._now())
        return [address.machine(each.slug, each.machine_id) for each in turns]

    async def _try_again(self, waiting: Waiting, newest: Recorded) -> None:
        where = address.machine(waiting.slug, waiting.machine_id)
        cause = newest.caused(ACTOR, "tried again")
        answer = await self._ledger.carry_out(where, lambda now: self._command(now, self.line.ahead(waiting)), cause)
        if not _waits(answer):
            await self._timers.cancel(where.id)

    async def _rebalance(self) -> None:
        cause = Cause(ACTOR, reason="shares moved")
        await self._ledger.rebalance(lambda hub, now: self.line.queue.rebalanced(now, hub), cause)

    async def _end(self, where: Address, recorded: Recorded, command: Cancel | Expire) -> None:
        where = _machine(where)
        answer = await self._ledger.carry_out(where, lambda _: command, recorded.caused(ACTOR))
        if answer.decision and answer.before.standing is Standing.QUEUED:
            await self._timers.cancel(where.id)

    def _command(self, now: datetime, ahead: Waiting | None, *, queue_full: bool = False) -> Admit:
        return Admit(now, self._settings.tariff, self._settings.machines_max, ahead, queue_full)

    async def _set_deadline(self, where: Address, since: datetime) -> None:
        await self._timers.set(
            where.id,
            since + timedelta(seconds=QUEUE_S),
            project=where.project,
            aggregate=where.aggregate,
            id=where.id,
            purpose="queued",
        )


def _waits(answer: Answer) -> bool:
    said = answer.decision.machine
    return isinstance(said[0], MachineQueued) if said else answer.before.standing is Standing.QUEUED


def _machine(where: Address) -> Address:
    """Refuse a machine whose id is no UUID as it is usually written: no account could be its own.

    Raises:
        Never: Always the case for this event.
    """
    try:
        usual = str(UUID(where.id))
    except ValueError:
        usual = ""
    if usual != where.id:
        raise Never(f"machine id {where.id[:100]!r} is no UUID in lower case with hyphens")
    return where
