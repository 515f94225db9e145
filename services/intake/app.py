"""The intake hears what anybody publishes to `in.>` or asks at `ask.>`, checks it, and appends or refuses it."""

import asyncio
import time
from contextlib import AsyncExitStack
from types import TracebackType
from typing import Self

from nats import micro
from nats.micro.service import Service as MicroService

from services.intake.admit import Admission
from services.intake.asked import AGGREGATES, PREFIX, SERVICE, Asked
from services.intake.published import Published
from services.intake.rate import Rate
from services.intake.settings import IntakeSettings
from services.kit.bus import Bus
from services.kit.health import Health
from services.kit.metrics import Metrics
from services.kit.reactor import Reactors

VERSION = "0.1.0"

__all__ = ["Intake", "IntakeSettings", "create_app"]


def create_app(bus: Bus, settings: IntakeSettings) -> "Intake":
    return Intake(bus, settings)


class Intake:
    """The door, open inside its `async with` block."""

    name = "intake"

    def __init__(self, bus: Bus, settings: IntakeSettings) -> None:
        self.metrics = Metrics(self.name)
        self._bus = bus
        self._settings = settings
        self._exits = AsyncExitStack()
        self._rate = Rate(per_s=settings.door_rate_per_s, burst=settings.door_burst, clock=time.monotonic)
        self._admission = Admission(
            bus.log,
            frozenset(settings.machine_types_enabled),
            settings.default_models,
            deadline_s=settings.door_append_deadline_s,
        )
        published = Published(bus, self._admission, self._rate, full_delay_s=settings.door_full_delay_s)
        self._reactors = Reactors(bus, self.name, self.metrics)
        self._reactors.on_raw(
            stream="IN", durable=self.name, subjects=["in.>"], concurrency=settings.door_published_at_once
        )(published.handle)

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as exits:
            tasks = await exits.enter_async_context(asyncio.TaskGroup())
            asked = Asked(self._admission, self._rate, tasks, at_once_max=self._settings.door_asked_at_once_max)
            await exits.enter_async_context(self._reactors.running())
            await exits.enter_async_context(await self._endpoints(asked))
            self._exits = exits.pop_all()
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        await self._exits.__aexit__(exc_type, exc, tb)

    async def health(self) -> Health:
        return await self._reactors.health()

    async def _endpoints(self, asked: Asked) -> MicroService:
        service = await micro.add_service(
            self._bus.nc, name=SERVICE, version=VERSION, description="the door: ask for something, get its seq"
        )
        for aggregate in AGGREGATES:
            await service.add_endpoint(
                name=aggregate, subject=f"{PREFIX}.*.{aggregate}.*.*", handler=asked.handle, queue_group=self.name
            )
        return service
