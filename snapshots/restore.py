"""Write a snapshot into directories."""

import os
import shutil
from collections.abc import Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path

from snapshots.capture import Limits
from snapshots.errors import HostileManifest, NotEmpty, NotFound, Refused, Transient
from snapshots.packs import FULL
from snapshots.port import ChunkStore
from snapshots.scan import OPEN_DIRECTORY
from snapshots.seed import seed
from snapshots.statcache import StatCache
from snapshots.trees import DIRECTORY, FILE, Entry, iterate_trees, read_manifest

BATCH_BYTES = 4 << 20
BATCH_FILES = 256
DIRECTORIES_AT_ONCE = 256
CREATE = os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC
"""Exclusive: a name that is there already is never opened, whoever put it there."""


@dataclass(slots=True)
class _Made:
    """A directory that was made; it gets its mode and time when nothing more is written into it."""

    path: bytes
    entry: Entry
    depth: int


BLOCK_BYTES = 4_096
BLOCK = bytes(BLOCK_BYTES)
HOLE_BYTES = 2 * BLOCK_BYTES
HOLE = bytes(HOLE_BYTES)
"""Zeros of at least this length hold a whole block that need not be written."""
FEW_FILES = 5_000
"""With fewer, threads only wait for each other (1,000 files: 31 ms of CPU with one, 50 ms with three)."""
THREADS = 3


def restore(
    snapshot: str,
    dest: Path | Mapping[str, Path],
    store: ChunkStore,
    *,
    limits: Limits | None = None,
    owner: tuple[int, int] | None = None,
    threads: int | None = None,
) -> StatCache:
    """Write a snapshot into new or empty directories, every chunk checked against its digest.

    Nothing is written outside of them, whatever the manifest says: names are single components, every file is created
    exclusively, and links are never followed. Nothing is synced: what was restored can be restored again.

    Args:
        dest: Where every root goes under its name; or a directory for each root that is wanted.
        owner: Uid and gid of everything; needs root. None: whoever runs this.
        threads: None: one for few files, several for many.
    Returns:
        A stat cache for the first capture of the same directories into the same store, so that it reads nothing anew.
    Raises:
        NotEmpty: There is something in the target already.
        HostileManifest: The snapshot is malformed or too large by `limits`.
        Corrupt: A chunk is missing or damaged. What was written so far is removed, as after every failure.
    """
    generation = store.generation()
    root = bytes.fromhex(snapshot)
    manifest = read_manifest(store, root)
    threads = threads or (1 if manifest.file_count < FEW_FILES else THREADS)
    run = _Restore(store, limits or Limits(), owner, threads)
    entries = {entry.name.decode(): entry for entry in (found.entry() for found in manifest.roots)}
    targets = {name: dest / name for name in entries} if isinstance(dest, Path) else dict(dest)
    if unknown := targets.keys() - entries.keys():
        raise NotFound(f"snapshot {snapshot} has the roots {sorted(entries)}, not {sorted(unknown)}")
    made: list[Path] = []
    try:
        for name, target in targets.items():
            _prepare(target)
            made.append(target)
            run.root(os.fsencode(target), entries[name])
    except BaseException as error:
        for target in made:
            _empty(target)
        if isinstance(error, OSError):
            remedy = "free space, then call again" if error.errno in FULL else "nothing was left behind"
            raise Transient(f"restoring {snapshot} into {made[-1] if made else dest}: {error}; {remedy}") from error
        raise
    cache = StatCache()
    if set(targets) == set(entries):
        cache.generation, cache.snapshot = generation, root
        cache.directories = seed({name: (os.fsencode(targets[name]), run.trees[name.encode()]) for name in targets})
    return cache


class _Restore:
    def __init__(self, store: ChunkStore, limits: Limits, owner: tuple[int, int] | None, threads: int) -> None:
        self.store, self.limits, self.owner = store, limits, owner
        self.threads = threads
        self.files = 0
        self.size_bytes = 0
        self.trees: dict[bytes, dict[bytes, Entry]] = {}
        """For each root, the directories in it by their path below it."""

    def root(self, target: bytes, entry: Entry) -> None:
        made = [_Made(b"", entry, 1)]
        root_fd = os.open(target, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            with ThreadPoolExecutor(self.threads, thread_name_prefix="restore") as pool:
                running: set[Future[None]] = set()
                try:
                    for batch in self._batches(root_fd, made):
                        running.add(pool.submit(self._write_batch, root_fd, batch))
                        if len(running) > 2 * self.threads:
                            done, running = wait(running, return_when=FIRST_COMPLETED)
                            for future in done:
                                future.result()
                    for future in running:
                        future.result()
                finally:
                    for future in running:
                        future.cancel()
                    wait(running)
            for directory in reversed(made):
                self._finish(root_fd, directory)
        finally:
            os.close(root_fd)
        self.trees[entry.name] = {directory.path: directory.entry for directory in made}

    def _batches(self, root_fd: int, made: list[_Made]) -> Iterator[list[tuple[bytes, Entry]]]:
        """Make directories, newest first so that few stand open, and yield what is to be written into them."""
        batch: list[tuple[bytes, Entry]] = []
        batch_bytes = 0
        todo = list(made)
        while todo:
            now, todo = todo[-DIRECTORIES_AT_ONCE:], todo[:-DIRECTORIES_AT_ONCE]
            by_tree: dict[bytes, list[_Made]] = {}
            for directory in now:
                by_tree.setdefault(directory.entry.body, []).append(directory)
            for tree, entries in iterate_trees(self.store, list(by_tree)):
                for directory in by_tree[tree]:
                    for entry in entries:
                        if entry.kind == DIRECTORY:
                            todo.append(self._make(root_fd, directory, entry))
                            made.append(todo[-1])
                            continue
                        self._count(entry)
                        batch.append((directory.path, entry))
                        batch_bytes += entry.size
                        if len(batch) >= BATCH_FILES or batch_bytes >= BATCH_BYTES:
                            yield batch
                            batch, batch_bytes = [], 0
        if batch:
            yield batch

    def _make(self, root_fd: int, parent: _Made, entry: Entry) -> _Made:
        self.limits.check_depth(parent.depth + 1, parent.path)
        path = parent.path + b"/" + entry.name if parent.path else entry.name
        os.mkdir(path, 0o700, dir_fd=root_fd)
        self.files += 1  # a directory costs an inode too: without counting it, trees of trees would have no limit
        self.limits.check(self.files, self.size_bytes, "snapshot")
        return _Made(path, entry, parent.depth + 1)

    def _count(self, entry: Entry) -> None:
        self.files += 1
        self.size_bytes += entry.size
        self.limits.check(self.files, self.size_bytes, "snapshot")

    def _write_batch(self, root_fd: int, batch: list[tuple[bytes, Entry]]) -> None:
        """In a thread."""
        small = [entry.body for _, entry in batch if entry.kind == FILE and len(entry.body) == 32]
        chunks = dict(self.store.get_many(small))
        current, fd = None, -1
        try:
            for path, entry in batch:
                if path != current:
                    if fd >= 0:
                        os.close(fd)
                    current, fd = path, os.open(path or b".", OPEN_DIRECTORY, dir_fd=root_fd)
                if entry.kind == FILE:
                    self._write_file(fd, entry, chunks)
                else:
                    os.symlink(entry.body, entry.name, dir_fd=fd)
                    if self.owner:
                        os.chown(entry.name, *self.owner, dir_fd=fd, follow_symlinks=False)
                    _set_time(entry.name, entry.mtime_ns, fd)
        finally:
            if fd >= 0:
                os.close(fd)

    def _write_file(self, directory: int, entry: Entry, chunks: dict[bytes, bytes]) -> None:
        fd = os.open(entry.name, CREATE, 0o600, dir_fd=directory)
        try:
            written = 0
            if len(entry.body) == 32:
                written = _write(fd, chunks[entry.body])
            else:
                for digest in entry.chunks:
                    written += _write(fd, self.store.get(digest))
            if written >= HOLE_BYTES:
                os.ftruncate(fd, written)  # it may end with a hole
            if written != entry.size:
                raise HostileManifest(f"{entry.name!r}: chunks hold {written} bytes, the tree says {entry.size}")
            if self.owner:
                os.fchown(fd, *self.owner)
            os.fchmod(fd, entry.mode)
            _set_time(fd, entry.mtime_ns)
        finally:
            os.close(fd)

    def _finish(self, root_fd: int, directory: _Made) -> None:
        fd = os.open(directory.path or b".", OPEN_DIRECTORY, dir_fd=root_fd)
        try:
            if self.owner:
                os.fchown(fd, *self.owner)
            os.fchmod(fd, directory.entry.mode)
            _set_time(fd, directory.entry.mtime_ns)
        finally:
            os.close(fd)


def _write(fd: int, raw: bytes) -> int:
    """Write at the descriptor's position, leaving holes where there is nothing but zeros. Returns all of the length.

    A hostile workspace may be all holes, which its disk limit does not count: restored as zeros it would fill the
    host's disk, with up to `Limits.size_bytes_max`.
    """
    position = 0
    while (hole := raw.find(HOLE, position)) >= 0:
        start = -(-hole // BLOCK_BYTES) * BLOCK_BYTES
        _write_all(fd, raw[position:start])
        position = start
        while raw.startswith(BLOCK, position):
            position += BLOCK_BYTES
        os.lseek(fd, position - start, os.SEEK_CUR)
    _write_all(fd, raw[position:])
    return len(raw)


def _write_all(fd: int, raw: bytes) -> None:
    left = memoryview(raw)
    while left:
        left = left[os.write(fd, left) :]


def _set_time(target: int | bytes, mtime_ns: int, directory: int | None = None) -> None:
    try:
        if isinstance(target, int):
            os.utime(target, ns=(mtime_ns, mtime_ns))
        else:
            os.utime(target, ns=(mtime_ns, mtime_ns), dir_fd=directory, follow_symlinks=False)
    except OverflowError as error:
        raise HostileManifest(f"{mtime_ns} ns is no time") from error


def _prepare(target: Path) -> None:
    try:
        target.mkdir(parents=True, exist_ok=True)
        with os.scandir(target) as entries:
            first = next(entries, None)
    except FileExistsError as error:
        raise Refused(f"{target} is not a directory") from error
    if target.is_symlink():
        raise Refused(f"{target} is a link; name the directory itself")
    if first is not None:
        raise NotEmpty(f"{target} is not empty: it holds {first.name!r}; restore into a new or empty directory")


def _empty(target: Path) -> None:
    """Remove what a failed restore made; directories were made by us and may be read-only by now."""
    target.chmod(0o700)
    for path, _, _ in os.walk(target):
        os.chmod(path, 0o700)  # noqa: PTH101 (bytes-safe, and os.walk gives strings)
    with os.scandir(target) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                shutil.rmtree(entry.path)
            else:
                os.unlink(entry.path)  # noqa: PTH108
