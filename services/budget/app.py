"""The budget hears who wants to run, what has ended and what accounts are asked, and says who may and what it took.

Any number of instances may run: what one decides on a state that another has changed is refused by the log and
decided again.
"""

import asyncio
from collections.abc import Callable
from contextlib import AsyncExitStack
from datetime import datetime
from types import TracebackType
from typing import Self

from events import fresh
from services.budget.desk import Desk
from services.budget.settings import BudgetSettings
from services.kit.bus import Bus
from services.kit.health import Health
from services.kit.metrics import Metrics
from services.kit.reactor import Reactors
from services.kit.timers import Timers

HEARS = (
    "av.*.machine.*.MachineRequested",
    "av.*.machine.*.MachineStopRequested",
    "av.*.machine.*.MachineEnded",
    "av.*.budget.*.BudgetRequested",
    "av.*.budget.*.BudgetTopUpRequested",
    "av._hub.timer.*.TimerFired",
)

__all__ = ["Budget", "BudgetSettings", "create_app"]


def create_app(bus: Bus, settings: BudgetSettings, now: Callable[[], datetime] = fresh.now) -> "Budget":
    return Budget(bus, settings, now)


class Budget:
    """The service, deciding inside its `async with` block."""

    name = "budget"

    def __init__(self, bus: Bus, settings: BudgetSettings, now: Callable[[], datetime]) -> None:
        self.metrics = Metrics(self.name)
        self._exits = AsyncExitStack()
        self._desk = Desk(bus.log, Timers(bus, self.name), settings, now)
        self._reactors = Reactors(bus, self.name, self.metrics)
        self._reactors.on(stream="LOG", durable=self.name, subjects=HEARS)(self._desk.hear)

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as exits:
            await self._desk.open()
            tasks = await exits.enter_async_context(asyncio.TaskGroup())
            for work in (self._desk.line.listen(), self._desk.line.serve()):
                exits.callback(tasks.create_task(work).cancel)
            await exits.enter_async_context(self._reactors.running())
            self._exits = exits.pop_all()
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        await self._exits.__aexit__(exc_type, exc, tb)

    async def health(self) -> Health:
        return Health((self._desk.line.health(),)) + await self._reactors.health()
