"""What no kernel limit holds everywhere: disk space in all, and memory where there is no control group for it."""

import asyncio
import os
from collections.abc import Sequence
from pathlib import Path

from agent.options import Options
from agent.process import RunnerProcess
from events.machine import Limits

ENTRY_BYTES_MIN = 4_096
"""What a directory entry counts at least, so that a million empty files are not free."""
NOTICEABLE = 8
"""When the filesystem has lost this part of what is still allowed, the tree is walked at the next look."""
WALK_SHARE = 20
"""In any case it is walked again after this many times what the walk took: at most 5 % of a core."""


class Watch:
    """Looks at a running program until it takes more than it may."""

    def __init__(self, root: Path, limits: Limits, options: Options, *, memory: bool) -> None:
        self._trees = [str(root / name) for name in ("workspace", "home", "tmp")]
        self._root, self._limits, self._options, self._memory = root, limits, options, memory

    async def breach(self, process: RunnerProcess) -> str:
        """Return once a limit is passed, with the reason in numbers.

        What is written between two walks goes beyond the limit by that much: for half a second in a small tree, for
        some seconds in one of 100,000 files unless the filesystem's counters tell (others may free what this one takes).
        """
        allowed = self._limits.disk_mib * 1024 * 1024
        left, free, due_s = allowed, 0, 0.0
        clock = asyncio.get_running_loop()
        while True:
            if self._memory and (used := process.memory_bytes()) > self._limits.memory_mib * 1024 * 1024:
                return f"memory: {used // 2**20} MiB used, limit {self._limits.memory_mib} MiB"
            now_free = _free_bytes(self._root)
            started_s = clock.time()
            if started_s >= due_s or free - now_free > left // NOTICEABLE:
                used = await asyncio.to_thread(self._used_bytes, process, allowed)
                if used > allowed:
                    return f"disk: more than {used // 2**20} MiB used, limit {self._limits.disk_mib} MiB"
                left, free = allowed - used, now_free
                due_s = started_s + WALK_SHARE * (clock.time() - started_s)
            await asyncio.sleep(self._options.watch_s)

    def _used_bytes(self, process: RunnerProcess, enough: int) -> int:
        """What the trees take, and what no tree shows: files that were removed while they are open."""
        used = disk_bytes(self._trees, enough)
        return used if used > enough else used + process.unlinked_bytes(self._root.stat().st_dev)


def disk_bytes(trees: Sequence[str], enough: int) -> int:
    """Sum up what the trees take on disk, stopping soon after `enough`; links are not followed.

    A path too long to be opened counts as everything: what cannot be counted may not be hidden there.
    """
    total = 0
    waiting = list(trees)
    while waiting and total <= enough:
        directory = waiting.pop()
        try:
            with os.scandir(directory) as entries:
                for entry in entries:
                    status = entry.stat(follow_symlinks=False)
                    total += max(status.st_blocks * 512, ENTRY_BYTES_MIN)
                    if entry.is_dir(follow_symlinks=False):
                        waiting.append(entry.path)
                    if total > enough:
                        break
        except (FileNotFoundError, NotADirectoryError, PermissionError):
            continue
        except OSError:
            return enough + 1
    return total


def _free_bytes(root: Path) -> int:
    """What the filesystem has left; a file costs its entry's least even when it has no blocks."""
    status = os.statvfs(root)
    return min(status.f_bavail * status.f_frsize, status.f_favail * ENTRY_BYTES_MIN if status.f_files else 2**63)
