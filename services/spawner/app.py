"""The spawner hears of admitted machines, has a hypervisor make their incarnations, and says the rest of their life.

It compares what the log wants with what the host has, again and again: what is lost is recovered from its last good
checkpoint, what nobody wants is destroyed, and every machine is brought to an end.
"""

import asyncio
import time
from contextlib import AsyncExitStack
from types import TracebackType
from typing import Self

import structlog
from prometheus_client import Gauge

from domain.tariff import Tariff
from events.words import Phase
from hypervisors.port import Hypervisor
from services.kit.bus import Bus
from services.kit.credentials import CredentialSource
from services.kit.errors import KitError
from services.kit.health import Health, Part
from services.kit.metrics import Metrics
from services.kit.reactor import Reactors
from services.kit.timers import Timers
from services.kit.wire import ApiError
from services.spawner.beats import Beats
from services.spawner.desk import ACTOR, Desk
from services.spawner.effects import Effects
from services.spawner.host import Host
from services.spawner.reconciler import Reconciler
from services.spawner.reports import Reports
from services.spawner.saga import Saga
from services.spawner.settings import SpawnerSettings
from services.spawner.timers import PhaseTimers

STALLED_S = 30.0
CATCH_UP_S = 30.0
_log: structlog.stdlib.BoundLogger = structlog.get_logger("spawner")

__all__ = ["SpawnerSettings", "create_app"]


def create_app(
    bus: Bus, settings: SpawnerSettings, hypervisor: Hypervisor, issuer: CredentialSource, tariff: Tariff | None = None
) -> "Spawner":
    """Build the spawner; it runs inside its `async with` block."""
    return Spawner(bus, settings, hypervisor, issuer, tariff or settings.tariff)


class Spawner:
    """All parts of the spawner, wired."""

    name = "spawner"

    def __init__(
        self, bus: Bus, settings: SpawnerSettings, hypervisor: Hypervisor, issuer: CredentialSource, tariff: Tariff
    ) -> None:
        self.metrics = Metrics(self.name)
        self._desk = Desk(bus.log)
        saga = Saga(hypervisor, issuer, settings)
        effects = Effects(bus, self._desk, saga, hypervisor, settings, tariff)
        self._reconciler = Reconciler(self._desk, effects, PhaseTimers(Timers(bus, ACTOR)), settings)
        self._host = Host(hypervisor, self._desk.overview, self._reconciler, effects, settings)
        self._beats = Beats(bus, self._reconciler)
        self._reactors = Reactors(bus, self.name, self.metrics)
        self._reactors.on_report(
            stream="IN",
            durable="spawner-reports",
            subjects=["from.*.*.*.spawner.>"],
            concurrency=settings.spawner_reports_at_once,
        )(Reports(self._desk, self._reconciler).handle)
        self._stack = AsyncExitStack()
        self._active = Gauge(
            "autovibe_machines_active",
            "Machines that have not ended, by phase",
            ["phase"],
            registry=self.metrics.registry,
        )

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as stack:
            await self._desk.load()
            await self._host.become_fit()
            await self._beats.start()
            stack.push_async_callback(self._beats.stop)
            tasks = await stack.enter_async_context(asyncio.TaskGroup())
            for work in (
                self._desk.follow(self._reconciler.heard),
                self._host.sweep_for_ever(),
                self._host.hear_exits(),
                self._host.keep_fit(),
                self._beats.stay_fair(),
                self._reconciler.run(),
            ):
                stack.callback(tasks.create_task(work).cancel)
            await stack.enter_async_context(self._reactors.running())
            stack.callback(tasks.create_task(self._hear_all()).cancel)
            self._stack = stack.pop_all()
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        await self._stack.__aexit__(exc_type, exc, tb)

    async def health(self) -> Health:
        self._count()
        idle_s = time.monotonic() - self._reconciler.looked_at
        tested = self._host.tested
        host = "not tested yet" if tested is None else "; ".join(tested.problems) or tested.enforcement
        own = Health(
            (
                Part("host", ok=tested is not None and tested.ok, detail=host),
                Part("orphans", ok=not self._host.fuse.blown, detail=self._host.fuse.blown),
                Part("reconciler", ok=idle_s < STALLED_S, detail=f"looked {idle_s:.1f} s ago"),
                Part("log", ok=True, detail=f"read up to seq {self._desk.position}"),
            )
        )
        return own + await self._reactors.health()

    async def _hear_all(self) -> None:
        """Have nobody declared lost before what was reported in our absence is handled."""
        try:
            if not await self._reactors.caught_up(CATCH_UP_S):
                _log.warning("reports.behind", after_s=CATCH_UP_S)
        except (KitError, ApiError) as error:
            _log.warning("reports.behind", reason=str(error))
        self._reconciler.has_heard_all = True

    def _count(self) -> None:
        by_phase = dict.fromkeys(Phase, 0)
        for known in self._desk.overview.machines.values():
            if known.machine.phase is not None:
                by_phase[known.machine.phase] += 1
        for phase, count in by_phase.items():
            self._active.labels(phase.value).set(count)
