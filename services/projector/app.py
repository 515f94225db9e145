"""The projector hears everything in the log, copies it into PostgreSQL and folds it into what reports read.

Of several only one projects; the others stand by and take over when its connection to the database ends.
"""

import asyncio
import gc
from contextlib import suppress
from types import TracebackType
from typing import Self

from prometheus_client import Counter, Gauge, Histogram

from services.kit.bus import Bus
from services.kit.health import Health, Part
from services.kit.metrics import Metrics
from services.projector.projector import Projector
from services.projector.rows import Batch
from services.projector.settings import ProjectorSettings

__all__ = ["ProjectorService", "ProjectorSettings", "create_app"]

WELL = frozenset({"running", "standby"})


def create_app(bus: Bus, settings: ProjectorSettings) -> "ProjectorService":
    return ProjectorService(bus, settings)


class ProjectorService:
    """The service, projecting inside its `async with` block."""

    name = "projector"

    def __init__(self, bus: Bus, settings: ProjectorSettings) -> None:
        self.metrics = Metrics(self.name)
        self._events = Counter("autovibe_projected_events", "Events projected", registry=self.metrics.registry)
        self._position = Gauge(
            "autovibe_projection_position", "Seq of the last projected event", registry=self.metrics.registry
        )
        self._sizes = Histogram(
            "autovibe_projection_batch_events",
            "Events per transaction",
            buckets=(1, 2, 5, 10, 50, 100, 500, 1000, 5000),
            registry=self.metrics.registry,
        )
        self._projector = Projector(bus.log, settings, self)
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        # What is loaded by now stays: the collector need not look at it again.
        gc.freeze()
        self._task = asyncio.create_task(self._projector.run(), name=self.name)
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task

    async def health(self) -> Health:
        state = self._projector.state
        if self._task is not None and self._task.done():
            return Health((Part("projection", ok=False, detail="the loop has ended"),))
        behind = max(0, state.log_end - state.position)
        detail = f"{state.word} at seq {state.position}, {behind} behind" + (
            f": {state.detail}" if state.detail else ""
        )
        return Health((Part("projection", ok=state.word in WELL, detail=detail),))

    def on_written(self, batch: Batch) -> None:
        self._events.inc(len(batch))
        self._position.set(batch.upto)
        self._sizes.observe(len(batch))
