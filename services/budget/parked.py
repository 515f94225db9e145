"""Machines that are parked: heard from the log, and let in again in their turn when something has made room for them."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import aclosing
from dataclasses import dataclass, replace
from datetime import datetime
from uuid import UUID

import structlog

from domain.budget.readmission import LIFTED
from events.address import Address
from events.envelope import Recorded
from events.machine import (
    MachineAdmitted,
    MachineDenied,
    MachineEnded,
    MachineParked,
    MachineRequested,
    MachineResumed,
)
from events.words import Hold
from services.kit.errors import KitError
from services.kit.health import Part
from services.kit.log import Log

FILTERS = tuple(
    f"av.*.machine.*.{name}"
    for name in (
        "MachineRequested",
        "MachineParked",
        "MachineResumed",
        "MachineAdmitted",
        "MachineEnded",
        "MachineDenied",
    )
)
PAUSE_S = 5.0

_log: structlog.stdlib.BoundLogger = structlog.get_logger("budget")
Try = Callable[[Address, Recorded], Awaitable[None]]
"""Try to let a parked machine in again: which, and the event that it was last heard of by."""


InTurn = Callable[[Mapping[Address, tuple[MachineRequested, datetime]]], list[Address]]
"""Who is tried first, of these machines: what each was asked for, and since when it is parked."""


@dataclass(frozen=True, slots=True)
class _One:
    """A machine that is parked."""

    holds: frozenset[Hold]
    newest: Recorded
    """What it was last heard of by."""
    since: datetime


class Parked:
    """Who is parked; tried by greediness, age and fair share, as queued machines are. Nobody keeps another one out."""

    def __init__(self, log: Log, attempt: Try, in_turn: InTurn, look_s: float) -> None:
        self._log = log
        self._try = attempt
        self._in_turn = in_turn
        self._look_s = look_s
        self._requests: dict[Address, MachineRequested] = {}
        """Of all machines that have not ended."""
        self._parked: dict[Address, _One] = {}
        self._position = 0
        self._changed = asyncio.Event()

    def __len__(self) -> int:
        return len(self._parked)

    def budgets_moved(self) -> None:
        if self._parked:
            self._changed.set()

    async def catch_up(self) -> None:
        async with aclosing(self._log.follow(filters=FILTERS, stop_at_end=True)) as batches:
            async for batch in batches:
                self._hear(batch)

    async def listen(self) -> None:
        async with aclosing(self._log.follow(self._position, FILTERS)) as batches:
            async for batch in batches:
                self._hear(batch)

    async def serve(self) -> None:
        """Try those who are parked whenever something has changed, and now and then, for ever."""
        looked_at = time.monotonic()
        while True:
            rest_s = max(0.05, self._look_s - (time.monotonic() - looked_at))
            try:
                async with asyncio.timeout(rest_s):
                    await self._changed.wait()
            except TimeoutError:
                pass  # a period may have ended, which nobody says
            self._changed.clear()
            looked_at = time.monotonic()
            waiting = {
                where: (self._requests[where], one.since)
                for where, one in self._parked.items()
                if not one.holds - LIFTED and where in self._requests
            }
            for where in self._in_turn(waiting):
                if where in self._parked:
                    await self._try_one(where, self._parked[where].newest)

    def health(self) -> Part:
        return Part("parked", ok=True, detail=f"{len(self)} machines parked")

    async def _try_one(self, where: Address, newest: Recorded) -> None:
        try:
            await self._try(where, newest)
        except KitError as error:
            _log.warning("parked.interrupted", machine_id=where.id, reason=str(error), again_in_s=PAUSE_S)
            asyncio.get_running_loop().call_later(PAUSE_S, self._changed.set)
        except Exception as error:  # noqa: BLE001 # the edge: one machine must not end the budget of all
            _log.error("parked.failed", machine_id=where.id, again_in_s=PAUSE_S, exc_info=error)
            asyncio.get_running_loop().call_later(PAUSE_S, self._changed.set)

    def _hear(self, batch: list[Recorded]) -> None:
        for recorded in batch:
            where, event = recorded.envelope.address, recorded.event
            self._position = recorded.seq
            match event:
                case MachineRequested() if _is_machine(where):
                    self._requests.setdefault(where, event)
                case MachineParked() if _is_machine(where):
                    one = self._parked.get(where) or _One(frozenset(), recorded, recorded.recorded_at)
                    self._parked[where] = replace(one, holds=one.holds | {event.hold}, newest=recorded)
                    self._changed.set()
                case MachineResumed() if where in self._parked:
                    one = self._parked[where]
                    self._parked[where] = replace(one, holds=one.holds - {event.hold}, newest=recorded)
                    self._changed.set()
                case MachineAdmitted():
                    self._parked.pop(where, None)
                case MachineEnded() | MachineDenied():
                    self._parked.pop(where, None)
                    self._requests.pop(where, None)
                case _:
                    pass


def _is_machine(where: Address) -> bool:
    try:
        return str(UUID(where.id)) == where.id
    except ValueError:
        return False
