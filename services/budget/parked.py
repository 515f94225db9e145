"""Machines that are parked: heard from the log, and let in again when something has made room for them."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from uuid import UUID

import structlog

from domain.budget.readmission import LIFTED
from events.address import Address
from events.envelope import Recorded
from events.machine import MachineAdmitted, MachineDenied, MachineEnded, MachineParked, MachineResumed
from events.words import Hold
from services.kit.errors import KitError
from services.kit.health import Part
from services.kit.log import Log

FILTERS = tuple(
    f"av.*.machine.*.{name}"
    for name in ("MachineParked", "MachineResumed", "MachineAdmitted", "MachineEnded", "MachineDenied")
)
PAUSE_S = 5.0

_log: structlog.stdlib.BoundLogger = structlog.get_logger("budget")
Try = Callable[[Address, Recorded], Awaitable[None]]
"""Try to let a parked machine in again: which, and the event that it was last heard of by."""


class Parked:
    """Who is parked, in the order in which they were; the first is tried first."""

    def __init__(self, log: Log, attempt: Try, look_s: float) -> None:
        self._log = log
        self._try = attempt
        self._look_s = look_s
        self._parked: dict[Address, tuple[set[Hold], Recorded]] = {}
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
            for where, (holds, newest) in tuple(self._parked.items()):
                if not holds - LIFTED:
                    await self._try_one(where, newest)

    def health(self) -> Part:
        return Part("parked", ok=True, detail=f"{len(self)} machines parked")

    async def _try_one(self, where: Address, newest: Recorded) -> None:
        try:
            await self._try(where, newest)
        except KitError as error:
            _log.warning("parked.interrupted", machine_id=where.id, reason=str(error), again_in_s=PAUSE_S)
            asyncio.get_running_loop().call_later(PAUSE_S, self._changed.set)

    def _hear(self, batch: list[Recorded]) -> None:
        for recorded in batch:
            where, event = recorded.envelope.address, recorded.event
            self._position = recorded.seq
            match event:
                case MachineParked() if _is_machine(where):
                    holds, _ = self._parked.get(where, (set[Hold](), recorded))
                    self._parked[where] = holds | {event.hold}, recorded
                    self._changed.set()
                case MachineResumed() if where in self._parked:
                    holds, _ = self._parked[where]
                    self._parked[where] = holds - {event.hold}, recorded
                    self._changed.set()
                case MachineAdmitted() | MachineEnded() | MachineDenied():
                    self._parked.pop(where, None)
                case _:
                    pass


def _is_machine(where: Address) -> bool:
    try:
        return str(UUID(where.id)) == where.id
    except ValueError:
        return False
