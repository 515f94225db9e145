"""Make a stat cache for directories that were just written, so that their first capture reads nothing."""

import os
import time
from collections.abc import Mapping

from snapshots.reader import CLOCK_REALTIME_COARSE
from snapshots.scan import OPEN_DIRECTORY, list_directory
from snapshots.statcache import PRINT, Seen
from snapshots.trees import Entry


def seed(roots: Mapping[str, tuple[bytes, Mapping[bytes, Entry]]]) -> dict[bytes, Seen]:
    """
    Args:
        roots: For each root where it stands, and the entry of every directory by its path below the root.
    """
    seen: dict[bytes, Seen] = {}
    for name, (target, directories) in roots.items():
        root_fd = os.open(target, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            for path, entry in directories.items():
                full = name.encode() + b"/" + path if path else name.encode()
                fd = os.open(path or b".", OPEN_DIRECTORY, dir_fd=root_fd)
                try:
                    parts = list_directory(fd, full, frozenset()).parts
                finally:
                    os.close(fd)
                seen[full] = Seen(_settled(parts), entry.body, entry.files, entry.size)
        finally:
            os.close(root_fd)
    return seen


def _settled(parts: list[bytes]) -> bytes:
    """The print; what was written within this clock tick gets none that matches, a change might leave it the same."""
    now = time.clock_gettime_ns(CLOCK_REALTIME_COARSE)
    for index in range(0, len(parts), 2):
        mode, size, mtime_ns, ctime_ns, inode = PRINT.unpack(parts[index])
        if ctime_ns >= now:
            parts[index] = PRINT.pack(mode, size, mtime_ns, 0, inode)
    return b"".join(parts)
