"""What the last capture saw of each directory, so that the next one reads only what changed.

For each directory a *print*: mode, size, mtime, ctime and inode of every entry, in the order the file system lists
them. The same bytes again mean that nothing in the directory itself has changed; its tree is then taken as it is.
What a print cannot see is a store to a memory-mapped page that was dirty already (the kernel stamps the first only).
"""

import os
import struct
from pathlib import Path
from typing import NamedTuple

from blake3 import blake3

PRINT = struct.Struct("<IQqqQ")  # mode, size, mtime_ns, ctime_ns, inode; then the name and a slash
MAGIC = b"avstat1\n"
_RECORD = struct.Struct("<III32sQQ")


class Seen(NamedTuple):
    """One directory: its print, and what it became (everything below it counted)."""

    prints: bytes
    tree: bytes
    file_count: int
    size_bytes: int


class StatCache:
    """Belongs to one set of roots and one store; hand the same object to every capture of them. Not for two at once."""

    def __init__(self) -> None:
        self.generation = ""
        """The store's, when the trees below were known to be whole."""
        self.snapshot = b""
        self.directories: dict[bytes, Seen] = {}

    def forget(self) -> None:
        self.generation, self.snapshot, self.directories = "", b"", {}

    def save(self, path: Path) -> None:
        """Write it for another process; it is only ever an optimisation, so it is not synced."""
        parts = [self.generation.encode().ljust(64, b"\0"), self.snapshot.ljust(32, b"\0")]
        for name, (prints, tree, file_count, size_bytes) in self.directories.items():
            parts += (_RECORD.pack(len(name), len(prints), 0, tree, file_count, size_bytes), name, prints)
        body = b"".join(parts)
        temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
        temporary.write_bytes(MAGIC + blake3(body).digest() + body)
        temporary.replace(path)

    @classmethod
    def load(cls, path: Path) -> "StatCache":
        """What was saved; an empty one when there is nothing, or nothing usable."""
        cache = cls()
        try:
            raw = path.read_bytes()
        except FileNotFoundError:
            return cache
        start = len(MAGIC) + 32
        body = memoryview(raw)[start:]
        if not raw.startswith(MAGIC) or blake3(body).digest() != raw[len(MAGIC) : start]:
            return cache
        cache.generation = bytes(body[:64]).rstrip(b"\0").decode()
        cache.snapshot = bytes(body[64:96])
        position = start + 96
        while position < len(raw):
            name_length, print_length, _, tree, file_count, size_bytes = _RECORD.unpack_from(raw, position)
            at = position + _RECORD.size
            position = at + name_length + print_length
            cache.directories[raw[at : at + name_length]] = Seen(
                raw[at + name_length : position], tree, file_count, size_bytes
            )
        return cache


def prints_by_name(prints: bytes) -> dict[bytes, bytes]:
    """Cut a directory's print into its entries'."""
    found: dict[bytes, bytes] = {}
    position = 0
    while position < len(prints):
        at = position + PRINT.size
        end = prints.index(b"/", at)
        found[prints[at:end]] = prints[position:at]
        position = end + 1
    return found
