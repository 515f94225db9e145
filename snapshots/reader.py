"""Read files that others may be writing, and bring their chunks into the store."""

import errno
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from stat import S_ISREG

from snapshots.chunks import CHUNK_BYTES, digest_of, encode
from snapshots.port import ChunkWriter
from snapshots.scan import print_of

OPEN_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY
ATTEMPTS_MAX = 3
INGEST_BYTES = 4 << 20
CLOCK_REALTIME_COARSE = 5
"""The clock that file systems stamp with; it moves once per tick (4 ms at HZ=250). linux/time.h."""
TICK_S = time.clock_getres(CLOCK_REALTIME_COARSE)
COARSE_STAMP_NS = 2 * 10**9
"""Stamps that are whole seconds come from a file system that has no better ones; FAT's are two seconds apart."""


@dataclass(slots=True)
class Content:
    """A file as it stood still while it was read."""

    status: os.stat_result
    prints: bytes
    body: bytes


@dataclass(slots=True)
class Ingest:
    """Hashes, and a few MiB at a time asks which chunks are new, compresses those and puts them."""

    writer: ChunkWriter
    level: int
    pending: dict[bytes, bytes] = field(default_factory=dict[bytes, bytes])
    pending_bytes: int = 0

    def add(self, raw: bytes) -> bytes:
        digest = digest_of(raw)
        if digest not in self.pending:
            self.pending[digest] = raw
            self.pending_bytes += len(raw)
            if self.pending_bytes >= INGEST_BYTES:
                self.flush()
        return digest

    def flush(self) -> None:
        if self.pending:
            new = self.writer.missing(self.pending.keys())
            if new:
                chunks = [encode(digest, raw, self.level) for digest, raw in self.pending.items() if digest in new]
                self.writer.put(chunks)
            self.pending = {}
            self.pending_bytes = 0


def read_stable(
    name: bytes,
    directory: int,
    ingest: Ingest,
    on_read: Callable[[int], None] | None = None,
    check_time: Callable[[], None] | None = None,
) -> Content | str | None:
    """Read a file between two equal stats.

    A change within the same clock tick as the first stat would be invisible in the second; so the reading starts only
    when the file's last change lies a whole tick back.

    Args:
        on_read: Called after each reading and before the second stat; where tests change the file.
        check_time: Called between chunks of a large file; raises when it has taken long enough.
    Returns:
        The content; or why it cannot be had; or None when the file is gone.
    """
    for attempt in range(ATTEMPTS_MAX):
        try:
            fd = os.open(name, OPEN_FILE, dir_fd=directory)
        except FileNotFoundError:
            return None
        except OSError as error:
            if error.errno in (errno.ELOOP, errno.ENXIO):
                return "changed its type while captured"
            if error.errno in (errno.EACCES, errno.EPERM):
                return "unreadable (permission denied)"
            raise
        try:
            before, racy = _settled(fd)
            if not S_ISREG(before.st_mode):
                return "changed its type while captured"
            body, read_bytes = _read(fd, before.st_size, ingest, check_time)
            if on_read is not None:
                on_read(attempt)
            after = os.fstat(fd)
        finally:
            os.close(fd)
        same = (before.st_mtime_ns, before.st_ctime_ns) == (after.st_mtime_ns, after.st_ctime_ns)
        if same and before.st_size == after.st_size == read_bytes:
            return Content(before, print_of(before, racy=racy), body)
    return f"changed while read ({ATTEMPTS_MAX} attempts)"


def _settled(fd: int) -> tuple[os.stat_result, bool]:
    """The file's stat once its last change is a tick old; and whether a later change might still be invisible."""
    status = os.fstat(fd)
    now = time.clock_gettime_ns(CLOCK_REALTIME_COARSE)
    age_ns = now - status.st_ctime_ns
    if age_ns > COARSE_STAMP_NS:
        return status, False
    if age_ns <= 0:
        time.sleep(min(2, 1 - age_ns // max(1, int(TICK_S * 1e9))) * TICK_S)
        status = os.fstat(fd)
        age_ns = time.clock_gettime_ns(CLOCK_REALTIME_COARSE) - status.st_ctime_ns
    return status, age_ns <= 0 or status.st_ctime_ns % 10**9 == 0


def _read(fd: int, size: int, ingest: Ingest, check_time: Callable[[], None] | None) -> tuple[bytes, int]:
    if size < CHUNK_BYTES:
        raw = os.read(fd, size + 1)
        if len(raw) == size:
            return (ingest.add(raw) if raw else b""), size
        os.lseek(fd, 0, os.SEEK_SET)
    digests: list[bytes] = []
    read_bytes = 0
    while read_bytes <= size:  # a file that grows is read no further: the second stat tells
        if check_time is not None:
            check_time()
        raw = _read_full(fd)
        if not raw:
            break
        digests.append(ingest.add(raw))
        read_bytes += len(raw)
    return b"".join(digests), read_bytes


def _read_full(fd: int) -> bytes:
    """A whole chunk, short only at the end of the file."""
    raw = os.read(fd, CHUNK_BYTES)
    while 0 < len(raw) < CHUNK_BYTES:
        more = os.read(fd, CHUNK_BYTES - len(raw))
        if not more:
            break
        raw += more
    return raw
