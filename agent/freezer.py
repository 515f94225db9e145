"""Hold a program still while its files are read, by version 2 control groups; elsewhere it runs on."""

import contextlib
import time
from collections.abc import Sequence
from pathlib import Path

FREEZE_DEADLINE_S = 1.0


class Freezer:
    """Freezes and thaws; never leaves anything frozen that it could not freeze whole."""

    def __init__(self, cgroups: Sequence[Path]) -> None:
        self._groups = [group for group in cgroups if (group / "cgroup.freeze").exists()]

    def freeze(self) -> bool:
        """Hold every process still; False when there is no freezer or it did not manage in time. Blocks."""
        if not self._groups or not all(_write(group, "1") for group in self._groups):
            self.thaw()
            return False
        until = time.monotonic() + FREEZE_DEADLINE_S
        while not all(_frozen(group) for group in self._groups):
            if time.monotonic() > until:
                self.thaw()
                return False
            time.sleep(0.001)
        return True

    def thaw(self) -> None:
        for group in self._groups:
            _write(group, "0")


def _write(group: Path, value: str) -> bool:
    with contextlib.suppress(OSError):
        (group / "cgroup.freeze").write_text(value)
        return True
    return False


def _frozen(group: Path) -> bool:
    try:
        return "frozen 1" in (group / "cgroup.events").read_text()
    except OSError:
        return True


def out_of_memory_kills(cgroups: Sequence[Path]) -> int:
    """How many processes the kernel killed because the group had no memory left."""
    found = 0
    for group in cgroups:
        for name in ("memory.events", "memory.oom_control"):
            with contextlib.suppress(OSError, ValueError):
                fields = dict(line.split(" ", 1) for line in (group / name).read_text().splitlines())
                found = max(found, int(fields.get("oom_kill", "0")))
    return found
