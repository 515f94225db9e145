"""Control groups of one incarnation: version 1, version 2 or both at once (a hybrid host), whatever can be written.

Version 1 has one hierarchy per controller, so an incarnation has a directory in each; version 2 has one for all.
On a hybrid host the limits are in version 1, and freezing and killing in version 2: there SIGKILL also ends a frozen
process, which version 1's freezer does not allow, so nothing frozen can outlive its parent.
"""

import contextlib
import os
import signal
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from events.machine import Limits

V1_CONTROLLERS = ("memory", "cpu", "cpuacct", "pids")
V2_CONTROLLERS = ("memory", "cpu", "pids")
LAUNCHER_PROCESSES = 3
"""bwrap's monitor, its init and, for a moment, the shell that starts them count too."""
CPU_PERIOD_US = 100_000
REMOVE_DEADLINE_S = 5.0


@dataclass(frozen=True, slots=True)
class Hierarchy:
    """One mounted hierarchy and where in it our groups go."""

    controllers: tuple[str, ...]
    base: Path
    version: int


@dataclass(frozen=True, slots=True)
class Reading:
    """What control groups say of their processes."""

    cpu_s: float = 0.0
    memory_bytes: int = 0
    memory_peak_bytes: int = 0


class Cgroups:
    """The hierarchies that this process may use; empty where there are none."""

    def __init__(self, hierarchies: Sequence[Hierarchy] = ()) -> None:
        self.hierarchies = tuple(hierarchies)

    @classmethod
    def discover(cls, name: str, proc: Path = Path("/proc/self")) -> "Cgroups":
        """Find the hierarchies where a group `autovibe/<name>` can be made; makes them."""
        own = _own_groups((proc / "cgroup").read_text())
        found: list[Hierarchy] = []
        limited: set[str] = set()
        for mount, version, options in _mounts((proc / "mountinfo").read_text()):
            controllers = tuple(c for c in V1_CONTROLLERS if c in options) if version == 1 else ()
            if version == 1 and not controllers:
                continue
            parent = mount / own.get(next(iter(controllers), ""), "/").lstrip("/")
            usable = _open_base(parent, name, version, limited)
            if usable is not None:
                base, enabled = usable
                controllers = controllers if version == 1 else enabled
                limited.update(controllers)
                found.append(Hierarchy(controllers, base, version))
        return cls(found)

    @property
    def controllers(self) -> frozenset[str]:
        """Which of memory, cpu and pids are enforced."""
        return frozenset(c for h in self.hierarchies for c in h.controllers) & frozenset(V2_CONTROLLERS)

    @property
    def description(self) -> str:
        parts: list[str] = []
        for version in (1, 2):
            names = sorted({c for h in self.hierarchies if h.version == version for c in h.controllers} - {"cpuacct"})
            if names:
                parts.append(f"cgroup v{version}: {' '.join(names)}")
        return "; ".join(parts)

    def make(self, leaf: str, limits: Limits) -> tuple[Path, ...]:
        """Make the groups of one incarnation with its limits; the same groups when they are there already.

        Raises:
            OSError: A limit could not be set; nothing is left behind.
        """
        made: list[Path] = []
        try:
            for hierarchy in self.hierarchies:
                directory = hierarchy.base / leaf
                directory.mkdir(parents=True, exist_ok=True)
                made.append(directory)
                for file, value in _settings(hierarchy, limits):
                    _set(directory / file, value)
        except OSError:
            for directory in made:
                with contextlib.suppress(OSError):
                    directory.rmdir()
            raise
        return tuple(made)

    def leaves(self) -> set[str]:
        """Names of all groups that are there, leftovers of an earlier run included."""
        return {entry.name for h in self.hierarchies for entry in h.base.iterdir() if entry.is_dir()}

    def close(self) -> None:
        """Remove what `discover` made, unless an incarnation is left in it."""
        for hierarchy in self.hierarchies:
            with contextlib.suppress(OSError):
                hierarchy.base.rmdir()

    def directories(self, leaf: str) -> tuple[Path, ...]:
        return tuple(h.base / leaf for h in self.hierarchies if (h.base / leaf).is_dir())


def read(directories: Sequence[Path]) -> Reading:
    cpu_s, now, peak = 0.0, 0, 0
    for directory in directories:
        if (ns := _number(directory / "cpuacct.usage")) is not None:
            cpu_s = max(cpu_s, ns / 1e9)
        cpu_s = max(cpu_s, _v2_cpu_s(directory / "cpu.stat"))
        now = max(now, _number(directory / "memory.usage_in_bytes") or _number(directory / "memory.current") or 0)
        peak = max(peak, _number(directory / "memory.max_usage_in_bytes") or _number(directory / "memory.peak") or 0)
    return Reading(cpu_s, now, max(peak, now))


def kill(directories: Sequence[Path]) -> None:
    """Kill every process in the groups; new ones cannot be made meanwhile."""
    for directory in directories:
        with contextlib.suppress(OSError):
            (directory / "pids.max").write_text("0")
        with contextlib.suppress(OSError):
            (directory / "cgroup.kill").write_text("1")
    for directory in directories:
        for pid in processes(directory):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def remove(directories: Sequence[Path], deadline_s: float = REMOVE_DEADLINE_S) -> None:
    """Kill what is inside and remove the groups.

    Raises:
        TimeoutError: Something inside could not be killed in time.
    """
    until = time.monotonic() + deadline_s
    for directory in directories:
        while directory.exists():
            try:
                directory.rmdir()
            except FileNotFoundError:
                break
            except OSError as busy:
                if time.monotonic() > until:
                    raise TimeoutError(f"{directory} still has processes {processes(directory)[:10]}") from busy
                kill(directories)
                time.sleep(0.005)


def processes(directory: Path) -> list[int]:
    try:
        return [int(pid) for pid in (directory / "cgroup.procs").read_text().split() if pid != "0"]
    except OSError:
        return []


def _settings(hierarchy: Hierarchy, limits: Limits) -> Iterator[tuple[str, str]]:
    memory_bytes = limits.memory_mib * 1024 * 1024
    quota_us = limits.cpu_milli * CPU_PERIOD_US // 1000
    processes_max = limits.processes + LAUNCHER_PROCESSES
    for controller in hierarchy.controllers:
        match controller, hierarchy.version:
            case "memory", 1:
                yield "memory.limit_in_bytes", str(memory_bytes)
                yield "?memory.memsw.limit_in_bytes", str(memory_bytes)
            case "memory", _:
                yield "memory.max", str(memory_bytes)
                yield "?memory.swap.max", "0"
            case "cpu", 1:
                yield "cpu.cfs_period_us", str(CPU_PERIOD_US)
                yield "cpu.cfs_quota_us", str(quota_us)
            case "cpu", _:
                yield "cpu.max", f"{quota_us} {CPU_PERIOD_US}"
            case "pids", _:
                yield "pids.max", str(processes_max)
            case _:
                pass


def _set(path: Path, value: str) -> None:
    """Write one setting; a name that starts with `?` is one that not every kernel has (swap accounting)."""
    optional = path.name.startswith("?")
    path = path.with_name(path.name.removeprefix("?"))
    if not (optional and not path.exists()):
        path.write_text(value)


def _open_base(parent: Path, name: str, version: int, limited: set[str]) -> tuple[Path, tuple[str, ...]] | None:
    base = parent / "autovibe" / name
    try:
        base.mkdir(parents=True, exist_ok=True)
        if not os.access(base / "cgroup.procs", os.W_OK):
            return None
    except OSError:
        return None
    if version == 1:
        return base, ()
    enabled: list[str] = []
    for controller in V2_CONTROLLERS:
        if controller in limited:
            continue
        with contextlib.suppress(OSError):
            for group in (parent, parent / "autovibe", base):
                (group / "cgroup.subtree_control").write_text(f"+{controller}")
            enabled.append(controller)
    return base, tuple(enabled)


def _own_groups(text: str) -> dict[str, str]:
    """Map controller to the path of our own group; version 2 has the key ``""``."""
    groups: dict[str, str] = {}
    for line in text.splitlines():
        _, controllers, path = line.split(":", 2)
        groups.update(dict.fromkeys(controllers.split(","), path))
    return groups


def _mounts(text: str) -> list[tuple[Path, int, frozenset[str]]]:
    """Return the cgroup mounts, version 1 first, so that version 2 only takes what is left."""
    mounts: list[tuple[Path, int, frozenset[str]]] = []
    for line in text.splitlines():
        head, _, tail = line.partition(" - ")
        kind, _, options = tail.split(" ", 2)
        if kind in {"cgroup", "cgroup2"}:
            where = Path(head.split(" ")[4])
            mounts.append((where, 1 if kind == "cgroup" else 2, frozenset(options.split(","))))
    return sorted(mounts, key=lambda mount: mount[1])


def _number(path: Path) -> int | None:
    try:
        return int(path.read_text())
    except (OSError, ValueError):
        return None


def _v2_cpu_s(path: Path) -> float:
    try:
        fields = dict(line.split(" ", 1) for line in path.read_text().splitlines())
        return int(fields.get("usage_usec", "0")) / 1e6
    except (OSError, ValueError):
        return 0.0
