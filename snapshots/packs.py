"""Pack files: many chunks in one immutable file, so that durability costs one fsync and not one per chunk.

A pack is written under `tmp/`, synced, renamed into `packs/`, and the directory is synced. What stands in `packs/` is
therefore whole; what a killed writer left in `tmp/` is nobody's, and a sweep removes it.
"""

import errno
import fcntl
import os
from collections.abc import Generator, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from uuid import uuid4

from snapshots.chunks import HEADER, RAW_BYTES_MAX, Chunk
from snapshots.errors import Corrupt, StoreFull, Transient
from snapshots.index import Row

MAGIC = b"avpack1\n"
PACK_BYTES_MAX = 64 << 20
PACK_CHUNKS_MAX = 65_536
BUFFER_BYTES = 1 << 20
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@contextmanager
def disk_errors(path: Path) -> Generator[None]:
    """Turn what the operating system says of the store's disk into this package's errors."""
    try:
        yield
    except OSError as error:
        if error.errno in FULL:
            raise StoreFull(f"chunk store {path}: {error.strerror}; free space or sweep, then call again") from error
        raise Transient(f"chunk store {path}: {error.strerror}") from error


class Pack:
    """A pack being written by one thread at a time."""

    def __init__(self, store: Path) -> None:
        self.name = f"{uuid4().hex}.pack"
        self.rows: dict[bytes, Row] = {}
        self.size_bytes = len(MAGIC)
        self._store = store
        self._temporary = store / "tmp" / self.name
        self._buffer: list[bytes] = [MAGIC]
        self._buffered = len(MAGIC)
        with disk_errors(store):
            self._fd = os.open(self._temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600)
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)  # tells a sweep that its writer lives

    @property
    def full(self) -> bool:
        return self.size_bytes >= PACK_BYTES_MAX or len(self.rows) >= PACK_CHUNKS_MAX

    def add(self, chunk: Chunk) -> None:
        digest, codec, raw_bytes, payload = chunk
        stored_bytes = len(payload)
        self.rows[digest] = Row(digest, self.size_bytes + HEADER.size, stored_bytes, raw_bytes, codec)
        self._buffer += (HEADER.pack(digest, codec, raw_bytes, stored_bytes), payload)
        size_bytes = HEADER.size + stored_bytes
        self.size_bytes += size_bytes
        self._buffered += size_bytes
        if self._buffered >= BUFFER_BYTES:
            self._write()

    def seal(self) -> None:
        """Make it durable and visible; the index does not know it yet."""
        with disk_errors(self._store):
            self._write()
            os.fsync(self._fd)
            packs = self._store / "packs"
            os.rename(self._temporary, packs / self.name)  # noqa: PTH104
            sync_directory(packs)
            os.close(self._fd)
            self._fd = -1

    def give_up(self) -> None:
        if self._fd >= 0:
            with suppress(FileNotFoundError):
                self._temporary.unlink()
            os.close(self._fd)
            self._fd = -1

    def _write(self) -> None:
        with disk_errors(self._store):
            left = memoryview(b"".join(self._buffer))
            while left:
                left = left[os.write(self._fd, left) :]
        self._buffer = []
        self._buffered = 0


def sync_directory(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def rows_of(path: Path) -> Iterator[Row]:
    """Read a pack's headers: how the index is rebuilt.

    Raises:
        Corrupt: It is no pack, or it ends inside a record.
    """
    with path.open("rb", buffering=1 << 16) as file:
        size_bytes = os.fstat(file.fileno()).st_size
        if file.read(len(MAGIC)) != MAGIC:
            raise Corrupt(f"pack {path}: not a pack file; restore it from a backup or remove it")
        position = len(MAGIC)
        while position < size_bytes:
            header = file.read(HEADER.size)
            position += HEADER.size
            if len(header) < HEADER.size:
                raise Corrupt(f"pack {path}: cut inside a header at {position}")
            digest, codec, raw_bytes, stored_bytes = HEADER.unpack(header)
            if raw_bytes > RAW_BYTES_MAX or stored_bytes > raw_bytes or position + stored_bytes > size_bytes:
                raise Corrupt(f"pack {path}: damaged header at {position - HEADER.size}")
            yield Row(digest, position, stored_bytes, raw_bytes, codec)
            file.seek(stored_bytes, os.SEEK_CUR)
            position += stored_bytes
