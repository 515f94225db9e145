"""Whether a directory is as the last capture saw it; reads no file and writes nothing."""

import os
import time
from pathlib import Path

from snapshots.errors import DeadlineExceeded
from snapshots.scan import OPEN_DIRECTORY, list_directory
from snapshots.statcache import StatCache


def is_unchanged(name: str, path: Path, cache: StatCache, *, deadline_s: float = 60.0) -> bool:
    """Compare every directory's print with what `cache` remembers of the root `name`; stops at the first difference.

    True is sure but for what no print can see (`StatCache`). False may be a file that was written anew as it was, or
    one that was written in the same tick of the clock as it was captured.

    Raises:
        DeadlineExceeded: It took longer than `deadline_s`.
    """
    until = time.monotonic() + deadline_s
    stack: list[tuple[int, bytes, list[str]]] = []
    try:
        left = [os.fspath(path)]
        where, parent = b"", None
        while True:
            if time.monotonic() > until:
                raise DeadlineExceeded(f"looking for changes took longer than {deadline_s} s")
            if left:
                entry = left.pop()
                below = where + b"/" + os.fsencode(entry) if stack else name.encode()
                fd = os.open(entry, OPEN_DIRECTORY, dir_fd=parent)
                stack.append((fd, below, []))
                listed = list_directory(fd, below, frozenset())
                known = cache.directories.get(below)
                if known is None or known.prints != b"".join(listed.parts):
                    return False
                stack[-1][2].extend(listed.directories)
            elif stack:
                os.close(stack.pop()[0])
            if not stack:
                return True
            parent, where, left = stack[-1]
    except OSError:
        return False
    finally:
        for fd, _, _ in stack:
            os.close(fd)
