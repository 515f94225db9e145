"""List one directory through its descriptor: what is there, and its print.

Everything goes by descriptor and without following links: the directory belongs to somebody who may swap parts of it
for links to elsewhere while it is read.
"""

import os
from os import scandir
from stat import S_IFDIR
from typing import NamedTuple

from snapshots.statcache import PRINT

OPEN_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
TYPE_BITS = 0o170000


class Listing(NamedTuple):
    """`parts` alternates an entry's print and its name with a slash behind; `total_bytes` is what stat says of files."""

    parts: list[bytes]
    directories: list[str]
    size_bytes: int


def list_directory(fd: int, path: bytes, excluded: frozenset[bytes]) -> Listing:
    parts: list[bytes] = []
    directories: list[str] = []
    total = 0
    pack = PRINT.pack
    with scandir(fd) as entries:
        for entry in entries:
            name = entry.name
            if excluded and _excluded(name, path, excluded):
                continue
            try:
                status = entry.stat(follow_symlinks=False)
            except FileNotFoundError:
                continue
            mode = status.st_mode
            if mode & TYPE_BITS == S_IFDIR:
                # A directory's own size says nothing, and differs between file systems and after deletions.
                parts.append(pack(mode, 0, status.st_mtime_ns, status.st_ctime_ns, status.st_ino))
                directories.append(name)
            else:
                size = status.st_size
                total += size
                parts.append(pack(mode, size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino))
            parts.append(f"{name}/".encode("utf-8", "surrogateescape"))
    return Listing(parts, directories, total)


def _excluded(name: str, path: bytes, excluded: frozenset[bytes]) -> bool:
    encoded = os.fsencode(name)
    return encoded in excluded or path + b"/" + encoded in excluded


def print_of(status: os.stat_result, *, racy: bool = False) -> bytes:
    """`racy`: a later change might leave the same stamps, so the print must never match."""
    changed = 0 if racy else status.st_ctime_ns
    return PRINT.pack(status.st_mode, status.st_size, status.st_mtime_ns, changed, status.st_ino)
