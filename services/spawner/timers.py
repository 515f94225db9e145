"""Deadlines in the log: one timer per machine, set again when its phase changes, derived again after a crash."""

from datetime import datetime
from typing import Protocol

from services.kit.timers import Timers
from services.spawner.watch import Watch


class TimerPort(Protocol):
    async def set(self, watch: Watch, purpose: str, due: datetime) -> None: ...

    async def cancel(self, watch: Watch) -> None: ...


class PhaseTimers:
    """Sets each timer once, and takes it back when its machine has ended."""

    def __init__(self, source: Timers) -> None:
        self._source = source

    async def set(self, watch: Watch, purpose: str, due: datetime) -> None:
        wanted = (purpose, due.timestamp())
        if watch.timer == wanted:
            return
        address = watch.known.address
        await self._source.set(str(address), due, address.project, "machine", address.id, purpose)
        watch.timer = wanted

    async def cancel(self, watch: Watch) -> None:
        if watch.timer is not None:
            await self._source.cancel(str(watch.known.address))
            watch.timer = None


class NoTimers:
    """For a process that looks at its deadlines itself and is never away."""

    async def set(self, watch: Watch, purpose: str, due: datetime) -> None:
        del watch, purpose, due

    async def cancel(self, watch: Watch) -> None:
        del watch
