"""What runs on this host because of a hub: found by descent, by the data directory, by its control groups."""

import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

CGROUP_ROOT = Path("/sys/fs/cgroup")
_STATE, _PARENT, _STARTED = 0, 1, 19
"""Fields of /proc/<pid>/stat after the name in brackets (proc_pid_stat(5), counted from there)."""


@dataclass(frozen=True, slots=True)
class Process:
    """One process; its start makes the number unmistakable."""

    pid: int
    parent: int
    started: int
    command: str

    @property
    def is_alive(self) -> bool:
        now = _look(self.pid)
        return now is not None and now.started == self.started


def tree(pid: int) -> list[Process]:
    """Return a process and everything below it."""
    everything = list(_all())
    below, found = {pid}, [process for process in everything if process.pid == pid]
    while more := [process for process in everything if process.parent in below and process.pid not in below]:
        below |= {process.pid for process in more}
        found += more
    return found


def of_directory(data: Path) -> list[Process]:
    """Return the processes that have the directory in their command line or work in it, ourselves excepted."""
    return [
        process
        for process in _all()
        if process.pid != os.getpid() and (str(data) in process.command or _works_in(process.pid, data))
    ]


def groups(data: Path) -> list[Path]:
    """Return the control groups of machines on this data directory."""
    name = hashlib.blake2s(str(data.resolve()).encode(), digest_size=8).hexdigest()
    return [
        Path(place, leaf)
        for place, leaves, _ in os.walk(CGROUP_ROOT)  # passes over what is removed meanwhile, as glob does not
        if place.endswith(f"/autovibe/{name}")
        for leaf in leaves
    ]


def in_group(group: Path) -> list[Process]:
    """Return the processes of one sandbox."""
    try:
        pids = (group / "cgroup.procs").read_text().split()
    except OSError:
        return []  # it was removed meanwhile
    return [process for pid in pids if (process := _look(int(pid))) is not None]


def in_groups(data: Path) -> list[Process]:
    """Return the processes of all sandboxes on this data directory; one may stand in several groups."""
    return [process for group in groups(data) for process in in_group(group)]


def left_over(data: Path, known: list[Process]) -> list[Process]:
    """Return what still runs of these processes, of the directory, and of its machines."""
    alive = [process for process in known if process.is_alive]
    return list({process.pid: process for process in [*alive, *of_directory(data), *in_groups(data)]}.values())


def _all() -> Iterator[Process]:
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and (process := _look(int(entry.name))) is not None:
            yield process


def _look(pid: int) -> Process | None:
    """Return the process, None when it is gone or only waits to be reaped."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        command = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
    except OSError:
        return None
    if stat[_STATE] in {"Z", "X"}:
        return None
    return Process(pid, int(stat[_PARENT]), int(stat[_STARTED]), command)


def _works_in(pid: int, data: Path) -> bool:
    try:
        return Path(f"/proc/{pid}/cwd").readlink().is_relative_to(data.resolve())
    except OSError:
        return False
