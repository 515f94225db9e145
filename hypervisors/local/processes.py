"""What a process tree has in memory, where no control group says so."""

import contextlib
import os
from pathlib import Path


def resident_bytes(pid: int) -> int:
    """Sum what the descendants of this process have in memory; a page that they share counts for each."""
    waiting, total = _children(pid), 0
    while waiting:
        each = waiting.pop()
        waiting += _children(each)
        with contextlib.suppress(OSError, IndexError):
            total += int(Path(f"/proc/{each}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    return total


def _children(pid: int) -> list[int]:
    with contextlib.suppress(OSError):
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return []
