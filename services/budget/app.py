"""The budget hears who wants to run, what has ended and what accounts are asked, and says who may and what it took.

The gateway asks it before each model call, and tells it after.

Any number of instances may run: what one decides on a state that another has changed is refused by the log and
decided again.
"""

import asyncio
import gc
from collections.abc import Callable
from contextlib import AsyncExitStack
from datetime import datetime
from types import TracebackType
from typing import Self

from events import fresh
from services.budget.calls import CallDesk
from services.budget.desk import Desk
from services.budget.leases import Leases
from services.budget.parked import Parked
from services.budget.prices import PriceBook
from services.budget.questions import Questions
from services.budget.settings import BudgetSettings
from services.budget.tables import say_tables
from services.kit.bus import Bus
from services.kit.health import Health, Part
from services.kit.metrics import Metrics
from services.kit.reactor import Reactors
from services.kit.timers import Timers

HEARS = (
    "av.*.machine.*.MachineRequested",
    "av.*.machine.*.MachineStopRequested",
    "av.*.machine.*.MachineEnded",
    "av.*.machine.*.MachineParked",
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
        self._log, self._now = bus.log, now
        self._prices = PriceBook(settings)
        self._calls = CallDesk(bus.log, self._prices, settings, self._desk.line.queue, now)
        self._parked = Parked(bus.log, self._desk.readmit, self._desk.in_turn, settings.queue_look_s)
        self._leases = Leases(bus.log, self._calls.expire, self._budgets_moved, settings.call_lease_s)
        self._questions = Questions(bus, self._calls, self._leases, self._prices)
        self._reactors = Reactors(bus, self.name, self.metrics)
        self._reactors.on(stream="LOG", durable=self.name, subjects=HEARS)(self._desk.hear)

    async def __aenter__(self) -> Self:
        # What is loaded by now stays: the collector need not look at it again.
        gc.freeze()
        async with AsyncExitStack() as exits:
            await asyncio.gather(self._desk.open(), self._parked.catch_up(), self._leases.catch_up())
            tasks = await exits.enter_async_context(asyncio.TaskGroup())
            self._calls.begin(tasks)
            self._calls.owe(self._leases.undrawn)
            for work in (
                self._desk.line.listen(),
                self._desk.line.serve(),
                self._parked.listen(),
                self._parked.serve(),
                self._leases.listen(),
                self._leases.serve(),
                self._calls.serve(),
                self._calls.release(),
                self._calls.draw(),
                say_tables(self._log, self._prices, self._now),
            ):
                exits.callback(tasks.create_task(work).cancel)
            await self._questions.open(tasks)
            await exits.enter_async_context(self._reactors.running())
            exits.callback(self._questions.close)
            self._exits = exits.pop_all()
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        await self._exits.__aexit__(exc_type, exc, tb)

    def _budgets_moved(self) -> None:
        self._calls.budgets_moved()
        self._parked.budgets_moved()

    async def health(self) -> Health:
        open_calls = Part("calls", ok=True, detail=f"{len(self._leases)} model calls open")
        return Health((self._desk.line.health(), self._parked.health(), open_calls)) + await self._reactors.health()
