"""What the host has against what the log wants: exits are heard, orphans destroyed, with a fuse."""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from uuid import UUID

import structlog

from domain.overview import Overview
from domain.phases import LIVE
from events import address as at
from events.words import Phase
from hypervisors.port import Hypervisor, SelfTest, Unreachable, Vm
from services.spawner.effects import Effects
from services.spawner.reconciler import Reconciler
from services.spawner.settings import SpawnerSettings

SELF_TEST_AGAIN_MIN_S, SELF_TEST_AGAIN_MAX_S = 2.0, 30.0
"""A host so busy that its self-test ran out of time may be fit a moment later."""
_AT_REST = frozenset({Phase.RECOVERING, Phase.PARKED})
"""Phases of a machine whose newest incarnation is over, while another may follow."""
_log: structlog.stdlib.BoundLogger = structlog.get_logger("spawner")


@dataclass(slots=True)
class Fuse:
    """Keeps a wrong picture of the log from emptying the host."""

    always: int
    max_percent: int
    blown: str = ""
    """Why orphans are left alone; empty: it holds."""

    def allows(self, orphans: int, running: int) -> bool:
        allowed = max(self.always, running * self.max_percent // 100)
        held = orphans <= allowed
        self.blown = (
            ""
            if held
            else (
                f"{orphans} of {running} incarnations on the host are not in the log, at most {allowed} are destroyed "
                "at once: is this the right log? A restart with a higher `orphans_max_percent` destroys them"
            )
        )
        return held


@dataclass(slots=True)
class Orphans:
    """What has been on the host without the log wanting it, and since when (monotonic)."""

    since: dict[tuple[UUID, int], float] = field(default_factory=dict[tuple[UUID, int], float])

    def ripe(self, found: Sequence[Vm], grace_s: float) -> list[Vm]:
        """Remember these, forget all others, and return those that were there for long enough."""
        clock = time.monotonic()
        self.since = {(vm.machine_id, vm.epoch): self.since.get((vm.machine_id, vm.epoch), clock) for vm in found}
        return [vm for vm in found if not vm.running or clock - self.since[vm.machine_id, vm.epoch] >= grace_s]


class Host:
    """Compares, in the background."""

    def __init__(
        self,
        hypervisor: Hypervisor,
        overview: Overview,
        reconciler: Reconciler,
        effects: Effects,
        settings: SpawnerSettings,
    ) -> None:
        self._hypervisor = hypervisor
        self._overview = overview
        self._reconciler = reconciler
        self._effects = effects
        self._settings = settings
        self._orphans = Orphans()
        self.fuse = Fuse(settings.orphans_always, settings.orphans_max_percent)
        self.tested: SelfTest | None = None

    async def become_fit(self) -> bool:
        """Have the host prove its isolation; until it has, machines wait."""
        try:
            self.tested = await self._hypervisor.self_test()
        except Unreachable as error:
            _log.warning("host.unreachable", hypervisor=self._hypervisor.name, reason=str(error))
            return False
        if not self.tested.ok:
            _log.error("host.unfit", node=self.tested.node, problems=self.tested.problems)
        self._effects.host_is_fit = self.tested.ok
        return self.tested.ok

    async def keep_fit(self) -> None:
        """Try again while the host is not fit."""
        pause_s = SELF_TEST_AGAIN_MIN_S
        while not self._effects.host_is_fit:
            await asyncio.sleep(pause_s)
            pause_s = min(SELF_TEST_AGAIN_MAX_S, 2 * pause_s)
            if await self.become_fit():
                for watch in self._reconciler.watches():
                    self._reconciler.touch(watch)

    async def hear_exits(self) -> None:
        """Notice at once what `sweep` would notice later."""
        async for gone in self._hypervisor.exits():
            for watch in self._reconciler.watches():
                if watch.known.machine_id == gone.machine_id and watch.known.machine.epoch == gone.epoch:
                    watch.miss(gone.epoch, f"its agent ended with {gone.exit_code}: {gone.reason}"[:4_000])
                    self._reconciler.touch(watch)

    async def sweep_for_ever(self) -> None:
        while True:
            try:
                await self.sweep()
            except (Unreachable, OSError) as error:
                _log.warning("host.unreachable", hypervisor=self._hypervisor.name, reason=str(error))
            await asyncio.sleep(self._settings.sweep_s)

    async def sweep(self) -> None:
        """Compare once: what is missing is marked, what nobody wants is destroyed after its grace."""
        asked_at = time.monotonic()
        vms = await self._hypervisor.list()
        self._mark_missing(vms, asked_at)
        orphans = [vm for vm in vms if not self._is_wanted(vm)]
        ripe = self._orphans.ripe(orphans, self._settings.orphan_grace_s)
        running = sum(vm.running for vm in vms)
        if not self.fuse.allows(sum(vm.running for vm in ripe), running):
            _log.error("host.fuse_blown", reason=self.fuse.blown)
            ripe = [vm for vm in ripe if not vm.running]
        for vm in ripe:
            await self._destroy(vm)

    def _is_wanted(self, vm: Vm) -> bool:
        known = self._overview.machines.get(at.machine(vm.project, vm.machine_id))
        return known is not None and known.machine.epoch == vm.epoch and known.machine.phase not in _AT_REST

    def _mark_missing(self, vms: Sequence[Vm], asked_at: float) -> None:
        """Only what was surely made before the host was asked can be missing from its answer."""
        running = {(vm.machine_id, vm.epoch) for vm in vms if vm.running}
        for watch in self._reconciler.watches():
            machine = watch.known.machine
            if machine.phase not in LIVE or machine.phase is Phase.PROVISIONING or machine.incarnation is None:
                continue
            if (watch.known.machine_id, machine.epoch) in running or watch.made_at >= asked_at:
                continue
            watch.miss(machine.epoch, "it is not on the host any more")
            self._reconciler.touch(watch)

    async def _destroy(self, vm: Vm) -> None:
        _log.warning(
            "orphan.destroyed", machine_id=str(vm.machine_id), epoch=vm.epoch, vm_id=vm.vm_id, running=vm.running
        )
        try:
            await self._hypervisor.destroy(vm.machine_id, vm.epoch)
        except (Unreachable, OSError) as error:
            _log.warning("orphan.kept", vm_id=vm.vm_id, reason=str(error))
