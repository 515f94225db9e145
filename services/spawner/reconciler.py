"""Level-triggered: looks at every machine whenever something happened to it or its time has come, and does what is due.

One task per machine that needs something, never two for one machine; a failure is tried again with growing pauses.
"""

import asyncio
import random
import time
from datetime import datetime

import structlog
from structlog.contextvars import bound_contextvars

from domain import machine_commands as c
from domain.machine import decide
from domain.machine_state import due
from domain.overview import Known
from domain.phases import BEFORE_ADMISSION
from domain.usage import is_usage_due
from events.address import Address
from events.envelope import Recorded
from events.fresh import now
from events.timer import TimerFired
from events.words import Phase
from hypervisors.port import HypervisorError
from services.kit.credentials import CredentialsError
from services.kit.errors import KitError
from services.spawner.desk import ACTOR, Desk
from services.spawner.effects import Effects
from services.spawner.settings import SpawnerSettings
from services.spawner.timers import TimerPort
from services.spawner.watch import Watch

STEPS_MAX = 100
"""Steps for one machine in one go, before others get their turn."""
TIMERS_AT_ONCE = 8
_WATCHED_BY_BEATS = frozenset({Phase.READY, Phase.WORKING, Phase.UNREACHABLE})
_log: structlog.stdlib.BoundLogger = structlog.get_logger("spawner")


class Reconciler:
    """The watches over all machines that have not ended."""

    def __init__(self, desk: Desk, effects: Effects, timers: TimerPort, settings: SpawnerSettings) -> None:
        self._desk = desk
        self._effects = effects
        self._timers = timers
        self._settings = settings
        self._watches: dict[Address, Watch] = {}
        self._timer_slots = asyncio.Semaphore(TIMERS_AT_ONCE)
        self._group: asyncio.TaskGroup | None = None
        self.looked_at = time.monotonic()
        self.has_heard_all = False
        """Whether what agents reported while nobody listened is handled: who has finished meanwhile is not lost."""

    def watch(self, known: Known) -> Watch:
        watch = self._watches.get(known.address)
        if watch is None or watch.known is not known:
            watch = self._watches[known.address] = Watch(known)
            watch.booted.set()
        return watch

    def watches(self) -> list[Watch]:
        """One for each machine that has not ended."""
        return [self.watch(known) for known in list(self._desk.overview.machines.values())]

    def find(self, address: Address) -> Watch | None:
        known = self._desk.overview.machines.get(address)
        return self.watch(known) if known else None

    def heard(self, recorded: Recorded) -> None:
        """Look at the machines that an event of the log may concern."""
        address = recorded.envelope.address
        match recorded.event:
            case TimerFired(owner=owner, project=project, subject_aggregate=aggregate, subject_id=subject_id):
                if owner == ACTOR:
                    self._touch_at(Address(project, aggregate, subject_id))
            case _ if address.aggregate == "machine":
                self._touch_at(address)
            case _:
                for known in list(self._desk.overview.of_project(address.project)):
                    if known.machine.epoch == 0 or known.machine.phase in {Phase.SEALING, Phase.CHECKPOINTING}:
                        self.touch(self.watch(known))

    def _touch_at(self, address: Address) -> None:
        if (watch := self.find(address)) is not None:
            self.touch(watch)
        else:
            self._watches.pop(address, None)

    def touch(self, watch: Watch) -> None:
        """Have the machine looked at now."""
        watch.touched = True
        if watch.busy or self._group is None:
            return
        watch.busy = True
        self._group.create_task(self._look_after(watch), name=f"machine {watch.known.address}")

    async def run(self) -> None:
        """Look after all machines for ever."""
        async with asyncio.TaskGroup() as group:
            self._group = group
            try:
                for watch in self.watches():
                    self.touch(watch)
                while True:
                    await asyncio.sleep(self._settings.spawner_look_s)
                    self.looked_at = time.monotonic()
                    self._look_at_the_time()
            finally:
                self._group = None

    def _look_at_the_time(self) -> None:
        moment, clock = now(), time.monotonic()
        for address in [address for address in self._watches if address not in self._desk.overview.machines]:
            del self._watches[address]
        for watch in self.watches():
            if self._is_time(watch, moment, clock):
                self.touch(watch)

    def _is_time(self, watch: Watch, moment: datetime, clock: float) -> bool:
        if clock < watch.look_at:
            return False
        came = due(watch.known.machine)
        overdue = came is not None and came <= moment
        gone = self._is_lost(watch)
        metering = is_usage_due(watch.known.machine, moment, self._settings.meter_s)
        return watch.look_at > 0 or overdue or gone or metering or self._is_silent(watch)

    def _is_lost(self, watch: Watch) -> bool:
        return self.has_heard_all and watch.is_gone and watch.gone_for_s() >= self._settings.exit_grace_s

    def _is_silent(self, watch: Watch) -> bool:
        machine = watch.known.machine
        if machine.phase not in {Phase.READY, Phase.WORKING}:
            return False
        if watch.seen_epoch != machine.epoch:
            watch.see(machine.epoch)
        return time.monotonic() - watch.seen_at >= self._settings.beat_missed_s

    def deaf(self) -> None:
        """We ourselves cannot hear: nobody's silence counts."""
        for watch in self.watches():
            watch.see(watch.known.machine.epoch)

    async def _look_after(self, watch: Watch) -> None:
        address = watch.known.address
        with bound_contextvars(project=address.project, machine_id=address.id):
            try:
                await self._steps(watch)
            except Exception as error:  # noqa: BLE001 - the edge of one machine: another try comes
                self._failed(watch, error)
            else:
                watch.failures, watch.failing_since = 0, None
            finally:
                watch.busy = False
            if watch.touched and not watch.failures and not watch.known.machine.is_ended:
                self.touch(watch)

    async def _steps(self, watch: Watch) -> None:
        watch.look_at = 0.0
        for _ in range(STEPS_MAX):
            watch.touched = False
            if watch.known.machine.is_ended:
                await self._timers.cancel(watch)
                return
            if not (await self._missed(watch) or await self._effects.step(watch)) and not watch.touched:
                break
        else:
            watch.touched = True
        if watch.known.machine.is_parking or watch.known.machine.phase in {Phase.DRAINING, Phase.CHECKPOINTING}:
            watch.look_at = time.monotonic() + self._settings.stop_repeat_s
        elif watch.known.machine.is_admitted and watch.known.machine.phase in BEFORE_ADMISSION:
            watch.look_at = time.monotonic() + self._settings.spawner_retry_max_s
        await self._set_timer(watch, now())

    async def _missed(self, watch: Watch) -> bool:
        """Say what is missed: the incarnation on the host, or its beats; and that they are there again."""
        machine = watch.known.machine
        epoch = machine.epoch
        gone = self._is_lost(watch)
        if gone and machine.phase is not Phase.PROVISIONING and await self._effects.lost(watch, watch.missing_reason):
            return True
        if machine.phase not in _WATCHED_BY_BEATS or watch.is_gone:
            return False
        command: c.BeatSeen | c.BeatsMissed = c.BeatsMissed(epoch) if self._is_silent(watch) else c.BeatSeen(epoch)
        if machine.phase is Phase.UNREACHABLE:
            silent = watch.seen_epoch != epoch or time.monotonic() - watch.seen_at >= self._settings.beat_missed_s
            command = c.BeatsMissed(epoch) if silent else c.BeatSeen(epoch)
        return bool(await self._desk.say(watch.known, lambda m: decide(command, m)))

    async def _set_timer(self, watch: Watch, moment: datetime) -> None:
        """Have the log say when the phase is over, unless it is over soon anyway."""
        machine = watch.known.machine
        came = due(machine)
        if came is None or machine.is_ended or machine.phase is None:
            return
        in_phase_s = (moment - machine.since).total_seconds()
        if in_phase_s < self._settings.timer_after_s:
            later = time.monotonic() + self._settings.timer_after_s - in_phase_s
            watch.look_at = min(watch.look_at, later) if watch.look_at else later
            return
        async with self._timer_slots:
            await self._timers.set(watch, f"phase:{machine.phase}", came)

    def _failed(self, watch: Watch, error: Exception) -> None:
        watch.failures += 1
        pause_s = min(
            self._settings.spawner_retry_max_s, self._settings.spawner_retry_min_s * 2 ** min(watch.failures - 1, 16)
        )
        watch.look_at = time.monotonic() + random.uniform(pause_s / 2, pause_s)  # noqa: S311 # jitter
        expected = isinstance(error, HypervisorError | CredentialsError | KitError)
        _log.warning(
            "machine.delayed",
            phase=watch.known.machine.phase,
            failures=watch.failures,
            reason=f"{type(error).__name__}: {error}",
            exc_info=None if expected else error,
        )
