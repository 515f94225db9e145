"""The local hypervisor: every machine is a sandbox on this host, supervised by an agent that a warm zygote forked."""

import asyncio
import hashlib
import os
import platform
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Self
from uuid import UUID

import structlog

from events.agent import AgentSpec
from hypervisors.local import cgroups, incarnation, mounts, sandbox, seccomp, selftest, trash
from hypervisors.local.incarnation import Incarnation, Record
from hypervisors.local.processes import resident_bytes
from hypervisors.local.zygote import Gone, Zygote
from hypervisors.port import Exit, MachineSpec, Refused, SelfTest, Unreachable, Usage, Vm

EXITS_MAX = 10_000
"""Exits that nobody has taken; the oldest is forgotten, `list` still shows its incarnation."""
METER_INTERVAL_S = 1.0
METER_SAVE_S = 30.0
_log: structlog.stdlib.BoundLogger = structlog.get_logger("hypervisor")


@dataclass(slots=True)
class _Meter:
    """What a running incarnation has used so far."""

    started: datetime
    agent_pid: int = 0
    memory_byte_s: float = 0.0
    memory_peak_bytes: int = 0
    agent_cpu_s: float = 0.0
    ended: datetime | None = None
    read_at_s: float = 0.0
    saved_at_s: float = 0.0


@dataclass(frozen=True, slots=True)
class LocalSettings:
    """Where machines live on this host and what confines them."""

    data: Path
    bwrap: Path | None = None
    """None: the wheel's, else the system's."""
    agent_options: str = "{}"
    """JSON of `agent.options.Options`: how long an agent waits for what."""
    hidden: tuple[Path, ...] = ()
    """Beside `data`: directories of which no sandbox may be shown anything, whatever a tool's mounts say."""
    use_cgroups: bool = True
    """False: rlimits and the agent's watch only, as on a host without writable control groups."""


class LocalHypervisor:
    """Use as an async context manager; leaving it kills everything that it started."""

    name = "local"

    def __init__(self, settings: LocalSettings) -> None:
        self.node = platform.node() or "localhost"
        self._data = settings.data.resolve()
        self._settings = settings
        self._machines = self._data / "machines"
        self.zygote = Zygote(self._on_gone)
        self._exits: asyncio.Queue[Exit] = asyncio.Queue(EXITS_MAX)
        self._meters: dict[str, _Meter] = {}
        self._locks: dict[str, asyncio.Lock] = {}
        self.cgroups = cgroups.Cgroups()
        self.sandbox: sandbox.Sandbox | None = None
        self._tested: SelfTest | None = None
        self._trash = trash.Trash(self._data / "trash")
        self._metering: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        self._machines.mkdir(parents=True, exist_ok=True, mode=0o755)
        if self._settings.use_cgroups:
            hub = hashlib.blake2s(str(self._data).encode(), digest_size=8).hexdigest()
            self.cgroups = cgroups.Cgroups.discover(hub)
        trash.spread(self._machines)
        self._trash.open()
        await asyncio.to_thread(incarnation.drop_tombstones, self._machines)
        self._metering = asyncio.create_task(self._meter(), name="local-hypervisor-meter")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, problem: BaseException | None, _: TracebackType | None
    ) -> None:
        if self._metering is not None:
            self._metering.cancel()
            await asyncio.gather(self._metering, return_exceptions=True)
        await self.zygote.close()
        await self._trash.close()
        for leaf in tuple(self._meters):
            await self._put_away(leaf)
        self.cgroups.close()

    @property
    def enforcement(self) -> str:
        rlimits = "cpu_time file_size open_files" + ("" if "memory" in self.cgroups.controllers else " data_segment")
        processes = "" if "pids" in self.cgroups.controllers else " processes"
        watched = "disk" + ("" if "memory" in self.cgroups.controllers else " memory")
        unlimited = "" if "cpu" in self.cgroups.controllers else "; not limited: cpu share"
        parts = [self.cgroups.description, f"rlimits: {rlimits}{processes}", f"watched by the agent: {watched}"]
        return "; ".join(part for part in parts if part) + unlimited

    async def self_test(self) -> SelfTest:
        """Prove on real sandboxes that they isolate; the answer is kept and `create` goes by it."""
        started = time.monotonic()
        try:
            bwrap = (self._settings.bwrap or sandbox.bundled_bwrap()).resolve()
            self.sandbox = sandbox.prepare(self._data, bwrap, seccomp.program())
            await self.zygote.start()
            problems = await asyncio.to_thread(selftest.problems, self.sandbox, self.cgroups, self._data)
        except (OSError, Refused, Unreachable) as reason:
            problems = (str(reason),)
        took_ms = int((time.monotonic() - started) * 1000)
        self._tested = SelfTest(not problems, self.node, self.enforcement, tuple(problems), took_ms)
        return self._tested

    async def create(self, spec: MachineSpec) -> Vm:
        """Start a sandbox's agent, or return the incarnation that is there.

        Raises:
            Refused: The host failed its self-test, has less than the limits ask for, or a mount would show what is private.
            Unreachable: The zygote did not answer; ask again.
        """
        here = Incarnation(self._machines, spec.machine_id, spec.epoch)
        async with self._locks.setdefault(here.leaf, asyncio.Lock()):
            if here.record() is not None:
                return self._vm(here)
            confine = await self._ready(spec)
            shown = mounts.checked(spec.tool.mounts if spec.tool else (), (self._data, *self._settings.hidden))
            groups = self._make_groups(here, spec)
            record = Record(
                project=spec.project,
                machine_id=spec.machine_id,
                epoch=spec.epoch,
                created_at=datetime.now(UTC),
                enforcement=self.enforcement,
                cgroups=tuple(str(group) for group in groups),
            )
            here.make(record, confine.host_uid(spec.machine_id))
            self._meters[here.leaf] = _Meter(record.created_at)
            await self._fork(here, self._agent_spec(spec, here, confine, groups, shown))
            return self._vm(here)

    async def list(self) -> list[Vm]:
        return [self._vm(here) for here in incarnation.found(self._machines)]

    async def destroy(self, machine_id: UUID, epoch: int) -> Usage:
        """Kill an incarnation with everything in it and remove its directory; its usage is kept for a day.

        Raises:
            Unreachable: Something could not be killed or removed in time; ask again.
        """
        here = Incarnation(self._machines, machine_id, epoch)
        async with self._locks.setdefault(here.leaf, asyncio.Lock()):
            await self.zygote.kill(here.leaf)
            groups = self._groups(here)
            await asyncio.to_thread(cgroups.kill, groups)
            usage = await self.usage(machine_id, epoch)
            if usage.started_at is not None:
                usage = replace(usage, ended_at=usage.ended_at or datetime.now(UTC))
                _keep(here, usage)
            try:
                await asyncio.to_thread(cgroups.remove, groups)
            except TimeoutError as reason:
                raise Unreachable(str(reason)) from reason
            self._trash.put(here.root)
            self._meters.pop(here.leaf, None)
        self._locks.pop(here.leaf, None)
        return usage

    async def usage(self, machine_id: UUID, epoch: int) -> Usage:
        here = Incarnation(self._machines, machine_id, epoch)
        record = here.record()
        if record is None:
            return here.spent() or Usage()
        reading = cgroups.read(self._groups(here))
        meter = self._meters.get(here.leaf)
        before = here.spent() or Usage()
        if meter is None:
            ended = before.ended_at or here.last_alive() or record.created_at
            meter = _Meter(
                record.created_at,
                memory_byte_s=before.memory_byte_s,
                memory_peak_bytes=before.memory_peak_bytes,
                agent_cpu_s=before.cpu_s,
                ended=ended,
            )
        ended = meter.ended or datetime.now(UTC)
        return Usage(
            cpu_s=max(reading.cpu_s, meter.agent_cpu_s),
            memory_byte_s=meter.memory_byte_s,
            memory_peak_bytes=max(reading.memory_peak_bytes, meter.memory_peak_bytes),
            wall_s=max(0.0, (ended - meter.started).total_seconds()),
            started_at=meter.started,
            ended_at=meter.ended,
        )

    async def exits(self) -> AsyncIterator[Exit]:
        while True:
            yield await self._exits.get()

    async def _put_away(self, leaf: str) -> None:
        """Keep what a machine that dies with us has used; its control groups do not outlive us, its directory does."""
        machine_id, _, epoch = leaf.partition(".")
        here = Incarnation(self._machines, UUID(machine_id), int(epoch))
        usage = await self.usage(here.machine_id, here.epoch)
        if here.record() is not None:
            _keep(here, replace(usage, ended_at=usage.ended_at or datetime.now(UTC)))
        await asyncio.to_thread(cgroups.remove, self._groups(here))

    async def _ready(self, spec: MachineSpec) -> sandbox.Sandbox:
        tested = self._tested or await self.self_test()
        if not tested.ok or self.sandbox is None:
            raise Refused(f"host {self.node} failed its self-test: {'; '.join(tested.problems)}")
        host_mib = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 1024 // 1024
        if spec.limits.memory_mib > host_mib:
            raise Refused(f"asked {spec.limits.memory_mib} MiB of memory, host {self.node} has {host_mib} MiB")
        cores = os.cpu_count() or 1
        if spec.limits.cpu_milli > cores * 1000:
            raise Refused(f"asked {spec.limits.cpu_milli} thousandths of a core, host {self.node} has {cores * 1000}")
        return self.sandbox

    async def _fork(self, here: Incarnation, spec: AgentSpec) -> None:
        try:
            pid = await self.zygote.fork(here.leaf, spec.model_dump_json(), self._settings.agent_options)
            self._meters[here.leaf].agent_pid = pid
        except Unreachable:
            if here.leaf not in self.zygote.running:
                here.forget()
            raise

    def _make_groups(self, here: Incarnation, spec: MachineSpec) -> tuple[Path, ...]:
        try:
            return self.cgroups.make(here.leaf, spec.limits)
        except OSError as reason:
            raise Unreachable(f"could not make the control groups of {here.leaf}: {reason}") from reason

    def _agent_spec(
        self,
        spec: MachineSpec,
        here: Incarnation,
        confine: sandbox.Sandbox,
        groups: tuple[Path, ...],
        shown: tuple[Path, ...],
    ) -> AgentSpec:
        place = sandbox.Place(here.root, groups, "memory" in self.cgroups.controllers, shown)
        launcher = confine.launcher(place, spec.machine_id, spec.limits, spec.deadline_in_s)
        given = {name: getattr(spec, name) for name in MachineSpec.model_fields}
        return AgentSpec(
            **given,
            root=str(here.root),
            launcher=launcher,
            cgroups=tuple(str(group) for group in groups),
            runner_workspace=sandbox.WORKSPACE,
            runner_home=sandbox.HOME,
        )

    def _groups(self, here: Incarnation) -> tuple[Path, ...]:
        """Its control groups: as recorded, since an earlier run may have had them elsewhere, and as we would make them."""
        record = here.record()
        recorded = [Path(group) for group in record.cgroups] if record else []
        return tuple(
            dict.fromkeys([*(group for group in recorded if group.is_dir()), *self.cgroups.directories(here.leaf)])
        )

    def _vm(self, here: Incarnation) -> Vm:
        record = here.record()
        return Vm(
            machine_id=here.machine_id,
            epoch=here.epoch,
            project=record.project if record else "",
            vm_id=here.leaf,
            node=self.node,
            running=here.leaf in self.zygote.running,
            enforcement=record.enforcement if record else "",
            created_at=record.created_at if record else datetime.fromtimestamp(here.root.stat().st_mtime, UTC),
        )

    def _on_gone(self, gone: Gone) -> None:
        machine_id, _, epoch = gone.key.partition(".")
        meter = self._meters.get(gone.key)
        if meter is not None:
            meter.agent_cpu_s, meter.ended = gone.cpu_s, datetime.now(UTC)
        if self._exits.full():
            self._exits.get_nowait()
        self._exits.put_nowait(Exit(UUID(machine_id), int(epoch), gone.exit_code, gone.reason))

    async def _meter(self) -> None:
        """Add up memory over time; saved now and then so that a killed hub still knows most of it."""
        while True:
            await asyncio.sleep(METER_INTERVAL_S)
            for leaf in self.zygote.running:
                meter = self._meters.get(leaf)
                if meter is not None:
                    await asyncio.to_thread(self._read_meter, leaf, meter)

    def _read_meter(self, leaf: str, meter: _Meter) -> None:
        now_s = time.monotonic()
        reading = cgroups.read(self.cgroups.directories(leaf))
        if "memory" not in self.cgroups.controllers:
            memory_bytes = resident_bytes(meter.agent_pid)
            reading = replace(reading, memory_bytes=memory_bytes, memory_peak_bytes=memory_bytes)
        if meter.read_at_s:
            meter.memory_byte_s += reading.memory_bytes * (now_s - meter.read_at_s)
        meter.memory_peak_bytes = max(meter.memory_peak_bytes, reading.memory_peak_bytes)
        meter.read_at_s = now_s
        if now_s - meter.saved_at_s >= METER_SAVE_S:
            meter.saved_at_s = now_s
            machine_id, _, epoch = leaf.partition(".")
            wall_s = (datetime.now(UTC) - meter.started).total_seconds()
            usage = Usage(reading.cpu_s, meter.memory_byte_s, meter.memory_peak_bytes, wall_s, meter.started, None)
            _keep(Incarnation(self._machines, UUID(machine_id), int(epoch)), usage)


def _keep(here: Incarnation, usage: Usage) -> None:
    """Write down what it used; a disk without space for that must stop neither destroying, which frees it, nor metering."""
    try:
        here.write_spent(usage)
    except OSError as reason:
        _log.warning("usage.not_kept", machine_id=str(here.machine_id), epoch=here.epoch, reason=str(reason))
