"""Take single files, or everything, out of a snapshot."""

import io
import os
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from snapshots.capture import Limits
from snapshots.errors import HostileManifest, LimitExceeded, NotFound
from snapshots.port import ChunkStore
from snapshots.restore import restore
from snapshots.trees import DIRECTORY, FILE, LINK, Entry, read_manifest, read_tree

FILE_BYTES_MAX = 16 << 20


def find(snapshot: str, path: str, store: ChunkStore) -> Entry:
    """The entry at `root/path`; links on the way are not followed.

    Raises:
        NotFound: There is nothing of that name.
    """
    names = [os.fsencode(name) for name in path.strip("/").split("/")]
    entries = [root.entry() for root in read_manifest(store, bytes.fromhex(snapshot)).roots]
    for depth, name in enumerate(names):
        found = next((entry for entry in entries if entry.name == name), None)
        if found is None or (depth + 1 < len(names) and found.kind != DIRECTORY):
            raise NotFound(f"snapshot {snapshot} has no {'/'.join(map(os.fsdecode, names[: depth + 1]))!r}")
        if depth + 1 == len(names):
            return found
        entries = [entry for part in read_tree(store, found.body) for entry in part]
    raise NotFound(f"snapshot {snapshot}: empty path")


def listing(snapshot: str, path: str, store: ChunkStore) -> list[Entry]:
    """What is in a directory of a snapshot, sorted by name."""
    entry = find(snapshot, path, store)
    if entry.kind != DIRECTORY:
        raise NotFound(f"{path!r} is no directory in snapshot {snapshot}")
    return [found for part in read_tree(store, entry.body) for found in part]


def read_file(snapshot: str, path: str, store: ChunkStore, *, size_bytes_max: int = FILE_BYTES_MAX) -> bytes:
    """One file's content; `path` starts with the root's name."""
    entry = find(snapshot, path, store)
    if entry.kind != FILE:
        raise NotFound(f"{path!r} is no regular file in snapshot {snapshot}")
    if entry.size > size_bytes_max:
        raise LimitExceeded(f"{path!r} has {entry.size} bytes, size_bytes_max = {size_bytes_max}; export it instead")
    return b"".join(map(store.get, entry.chunks))


def export(snapshot: str, dest: Path, store: ChunkStore, *, root: str = "workspace") -> None:
    """Write one root's content into a new or empty directory."""
    restore(snapshot, {root: dest}, store)


def export_tar(snapshot: str, file: IO[bytes], store: ChunkStore, *, limits: Limits | None = None) -> None:
    """Write a PAX tar of all roots, in order of names and a chunk at a time; owners are left at 0.

    Raises:
        LimitExceeded: The snapshot holds more than `limits` allow.
    """
    limits = limits or Limits()
    files = size_bytes = 0
    with tarfile.open(fileobj=file, mode="w|", format=tarfile.PAX_FORMAT, encoding="utf-8") as tar:
        for path, entry in _walk(store, snapshot, limits):
            files, size_bytes = files + 1, size_bytes + (entry.size if entry.kind == FILE else 0)
            limits.check(files, size_bytes, "snapshot")
            member = tarfile.TarInfo(path.decode("utf-8", "surrogateescape"))
            member.mode, member.mtime = entry.mode, entry.mtime_ns // 10**9
            if entry.mtime_ns > 0:
                seconds, nanoseconds = divmod(entry.mtime_ns, 10**9)
                member.pax_headers = {"mtime": f"{seconds}.{nanoseconds:09d}"}
            if entry.kind == FILE:
                member.size = entry.size
                tar.addfile(member, io.BufferedReader(_Chunks(store, entry)))
                continue
            member.type = tarfile.DIRTYPE if entry.kind == DIRECTORY else tarfile.SYMTYPE
            if entry.kind == LINK:
                member.linkname = entry.body.decode("utf-8", "surrogateescape")
            tar.addfile(member)


def _walk(store: ChunkStore, snapshot: str, limits: Limits) -> Iterator[tuple[bytes, Entry]]:
    stack: list[tuple[bytes, Entry, int]] = [
        (root.name.encode(), root.entry(), 1) for root in reversed(read_manifest(store, bytes.fromhex(snapshot)).roots)
    ]
    while stack:
        path, entry, depth = stack.pop()
        yield path, entry
        if entry.kind == DIRECTORY:
            limits.check_depth(depth, path)
            below = [found for part in read_tree(store, entry.body) for found in part]
            stack += [(path + b"/" + found.name, found, depth + 1) for found in reversed(below)]


class _Chunks(io.RawIOBase):
    """A file's content, fetched as it is read."""

    def __init__(self, store: ChunkStore, entry: Entry) -> None:
        self._store, self._left, self._raw = store, iter(entry.chunks), memoryview(b"")
        self._size = entry.size

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: "bytearray | memoryview", /) -> int:  # type: ignore[override]  # the stub's Buffer has no slices
        if not self._raw:
            digest = next(self._left, None)
            self._raw = memoryview(self._store.get(digest) if digest else b"")
        count = min(len(buffer), len(self._raw))
        if not count and self._size:
            raise HostileManifest(f"a file's chunks end {self._size} bytes early")
        buffer[:count] = self._raw[:count]
        self._raw = self._raw[count:]
        self._size -= count
        return count
