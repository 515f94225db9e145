"""Capture directories into a chunk store as a snapshot."""

import os
import time
from collections import deque
from collections.abc import Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from pathlib import Path
from stat import S_IFDIR, S_IFLNK, S_IFREG

from snapshots.chunks import digest_of, encode
from snapshots.compare import count_changes
from snapshots.errors import DeadlineExceeded, LimitExceeded, Refused, Swept, Transient
from snapshots.port import ChunkStore, ChunkWriter
from snapshots.reader import Content, Ingest, read_stable
from snapshots.scan import OPEN_DIRECTORY, TYPE_BITS, list_directory
from snapshots.statcache import PRINT, Seen, StatCache, prints_by_name
from snapshots.trees import DEPTH_MAX, DIRECTORY, FILE, LINK, Entry, Manifest, Root, encode_tree, read_trees
from snapshots.verify import absent

BATCH_FILES = 256
BATCH_DIRECTORIES = 32
BATCH_BYTES = 4 << 20
SKIPPED_MAX = 32
WAITING_MAX = 256
COMMIT_ATTEMPTS_MAX = 5
KINDS = {0o140000: "socket", 0o010000: "fifo", 0o020000: "character device", 0o060000: "block device"}


@dataclass(frozen=True, slots=True)
class Limits:
    """What a snapshot may hold at most, when it is captured and when it is restored."""

    files_max: int = 4_000_000
    size_bytes_max: int = 64 << 30
    depth_max: int = DEPTH_MAX

    def check(self, files: int, size_bytes: int, where: str) -> None:
        if files > self.files_max:
            raise LimitExceeded(f"{where}: more than files_max = {self.files_max} files")
        if size_bytes > self.size_bytes_max:
            raise LimitExceeded(f"{where}: {size_bytes} bytes are more than size_bytes_max = {self.size_bytes_max}")


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What was captured; it is durable in the store."""

    digest: str
    """The manifest's; all that is needed to restore it."""
    file_count: int
    """Files and links."""
    size_bytes: int
    """All files, uncompressed."""
    captured_bytes: int
    """What was read anew."""
    stored_bytes: int
    """What the store grew by, compressed."""
    added: int
    changed: int
    removed: int
    skipped: tuple[str, ...]
    """`path: reason` of what is not in it; at most 32, the last may say how many more."""
    capture_ms: int


@dataclass(slots=True)
class _Directory:
    """A directory between being listed and being a tree."""

    path: bytes
    name: bytes
    fd: int
    parent: "_Directory | None"
    parts: list[bytes]
    left: list[str]
    known: Seen | None
    same: bool
    depth: int
    pending: int = 0
    children: dict[bytes, tuple[bytes, int, int]] = field(default_factory=dict[bytes, tuple[bytes, int, int]])
    """Name to tree, files, bytes."""
    contents: dict[bytes, Content | str | None] = field(default_factory=dict[bytes, Content | str | None])
    entries: dict[bytes, Entry] = field(default_factory=dict[bytes, Entry])
    """What the last capture made of it."""



def capture(
    roots: Mapping[str, Path],
    store: ChunkStore,
    *,
    parent: str | None = None,
    cache: StatCache | None = None,
    deadline_s: float = 60.0,
    limits: Limits | None = None,
    exclude: Sequence[str] = (),
    level: int = 1,
    threads: int = 3,
) -> Snapshot:
    """Capture directories into the chunk store as one snapshot.

    Kept are names (any bytes), contents, permissions, modification times, links and empty directories; `.git` is a
    directory like any other. Not kept are owners, setuid and setgid, extended attributes, and that two names were one
    file. Sockets, fifos, devices and unreadable files are left out and said so; so is a file that does not stand
    still. Only what changed since the capture that `cache` remembers is read.

    Args:
        roots: Directories by the names they get in the snapshot, such as `workspace` and `home`.
        parent: The snapshot that added, changed and removed are counted against.
        cache: Updated when the capture succeeds, left as it was when it fails.
        deadline_s: Give up after this long; nothing is left half-written.
        exclude: `root/path` leaves out that path; a bare name leaves out everything of that name.
        level: zstd's.
    Returns:
        The snapshot, after everything in it is on stable storage.
    Raises:
        LimitExceeded: There is more than `limits` allow.
        DeadlineExceeded: It took longer than `deadline_s`.
        StoreFull: The store has no space.
        Swept: A sweep removed what the cache remembered; the cache is empty now, capture again.
    """
    started = time.monotonic()
    cache = StatCache() if cache is None else cache
    generation = store.generation()
    if cache.generation != generation and cache.directories and absent(store, cache.snapshot, most=1):
        cache.forget()
    with store.writer() as writer:
        run = _Capture(store, writer, cache, started + deadline_s, limits or Limits(), level, exclude)
        with ThreadPoolExecutor(threads, thread_name_prefix="capture") as pool:
            try:
                manifest = Manifest(tuple(run.root(name, roots[name], pool) for name in sorted(roots)))
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise
        raw = manifest.encode()
        digest = digest_of(raw)
        run.put_new([raw])
        writer.flush()
        stored_bytes = writer.stored_bytes
    _commit(store, digest, generation, cache)
    cache.directories, cache.snapshot, cache.generation = run.seen, digest, generation
    counts = count_changes(store, bytes.fromhex(parent) if parent else None, digest)
    return Snapshot(
        digest=digest.hex(),
        file_count=manifest.file_count,
        size_bytes=manifest.size_bytes,
        captured_bytes=run.read_bytes,
        stored_bytes=stored_bytes,
        added=counts.added,
        changed=counts.changed,
        removed=counts.removed,
        skipped=run.skipped_bounded(),
        capture_ms=round((time.monotonic() - started) * 1000),
    )


def _commit(store: ChunkStore, digest: bytes, generation: str, cache: StatCache) -> None:
    for _ in range(COMMIT_ATTEMPTS_MAX):
        if store.commit(digest, generation):
            return
        generation = store.generation()
        lost = absent(store, digest, most=1)
        if lost:
            cache.forget()
            raise Swept(f"a sweep removed chunks of {digest.hex()} while it was captured; capture again")
    raise Transient(f"{COMMIT_ATTEMPTS_MAX} sweeps in a row came between a capture and its commit; capture again")


class _Capture:
    """One run: walks in post-order, hands files to the threads in batches, turns directories into trees in order."""

    def __init__(
        self,
        store: ChunkStore,
        writer: ChunkWriter,
        cache: StatCache,
        deadline: float,
        limits: Limits,
        level: int,
        exclude: Sequence[str],
    ) -> None:
        self.store, self.writer, self.cache = store, writer, cache
        self.deadline, self.limits, self.level = deadline, limits, level
        self.excluded = frozenset(os.fsencode(path.rstrip("/")) for path in exclude)
        self.seen: dict[bytes, Seen] = {}
        self.skipped: list[str] = []
        self.skipped_count = 0
        self.read_bytes = 0
        self.files = 0
        self.size_bytes = 0
        self.waiting: deque[_Directory] = deque()
        self.batch: list[tuple[_Directory, bytes]] = []
        self.batch_bytes = 0
        self.batch_directories = 0
        self.running: dict[Future[tuple[list[Content | str | None], int]], list[tuple[_Directory, bytes]]] = {}
        self.trees: list[bytes] = []
        self.trees_bytes = 0

    def root(self, name: str, path: Path, pool: ThreadPoolExecutor) -> Root:
        if not name or "/" in name or name in (".", ".."):
            raise Refused(f"{name!r} cannot be a root's name")
        try:
            fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except (FileNotFoundError, NotADirectoryError, PermissionError) as error:
            raise Refused(f"root {name}: {path}: {error.strerror}") from error
        status = os.fstat(fd)
        try:
            top = self._list(fd, name.encode(), name.encode(), None)
        except BaseException:
            os.close(fd)
            raise
        self._walk(top, pool)
        tree, count, size_bytes = top.children[b""]
        return Root(name, status.st_mode & 0o777, status.st_mtime_ns, tree, count, size_bytes)

    def put_new(self, chunks: list[bytes]) -> None:
        named = {digest_of(raw): raw for raw in chunks}
        new = self.writer.missing(named.keys())
        self.writer.put([encode(digest, raw, self.level) for digest, raw in named.items() if digest in new])

    def skipped_bounded(self) -> tuple[str, ...]:
        shown = self.skipped if self.skipped_count <= SKIPPED_MAX else self.skipped[: SKIPPED_MAX - 1]
        more = self.skipped_count - len(shown)
        return (*shown, f"and {more} more") if more else tuple(shown)

    def _skip(self, path: bytes, reason: str) -> None:
        self.skipped_count += 1
        if len(self.skipped) < SKIPPED_MAX:
            self.skipped.append(f"{path.decode('utf-8', 'backslashreplace')}: {reason}")

    def _check_time(self) -> None:
        if time.monotonic() > self.deadline:
            raise DeadlineExceeded(f"capture passed its deadline after {self.files} files; allow more time")

    def _list(self, fd: int, path: bytes, name: bytes, parent: _Directory | None) -> _Directory:
        parts, directories, size_bytes = list_directory(fd, path, self.excluded)
        self.files += len(parts) // 2 - len(directories)
        self.size_bytes += size_bytes
        self.limits.check(self.files, self.size_bytes, path.decode("utf-8", "backslashreplace"))
        known = self.cache.directories.get(path)
        same = known is not None and known.prints == b"".join(parts)
        depth = parent.depth + 1 if parent else 1
        if depth > self.limits.depth_max:
            raise LimitExceeded(f"{path[:200]!r}…: deeper than depth_max = {self.limits.depth_max} directories")
        # What is the same needs no parts: on an unchanged tree of a million files nothing piles up.
        return _Directory(path, name, fd, parent, [] if same else parts, directories, known, same, depth)

    def _walk(self, top: _Directory, pool: ThreadPoolExecutor) -> None:
        """Depth first, children before their parent; `top.children[b""]` is the result."""
        stack = [top]
        try:
            while stack:
                directory = stack[-1]
                if directory.left:
                    child = self._enter(directory, os.fsencode(directory.left.pop()))
                    if child is not None:
                        stack.append(child)
                else:
                    self._leave(directory, pool)
                    stack.pop()
            self._submit(pool)
            while self.waiting:
                self._collect(0)
            self._store_trees()
        finally:
            for future in self.running:
                future.cancel()
            wait(self.running)
            for directory in (*stack, *self.waiting):
                _close(directory)

    def _enter(self, directory: _Directory, name: bytes) -> _Directory | None:
        self._check_time()
        path = directory.path + b"/" + name
        try:
            fd = os.open(name, OPEN_DIRECTORY, dir_fd=directory.fd)
        except (FileNotFoundError, NotADirectoryError):
            directory.same = False
            return None
        except PermissionError:
            self._skip(path, "unreadable (permission denied)")
            directory.same = False
            return None
        try:
            return self._list(fd, path, name, directory)
        except BaseException:
            os.close(fd)
            raise

    def _leave(self, directory: _Directory, pool: ThreadPoolExecutor) -> None:
        known = directory.known
        if directory.same and known is not None:
            # Nothing below has changed either, or it would have said so.
            self.seen[directory.path] = known
            self._result(directory, known.tree, known.file_count, known.size_bytes)
            _close(directory)
            return
        if directory.parent is not None:
            directory.parent.same = False
        self.waiting.append(directory)
        self._jobs(directory, pool)
        self._collect(pool_limit(pool))
        while len(self.waiting) > WAITING_MAX:  # each holds a descriptor
            self._submit(pool)
            self._collect(len(self.running) - 1)

    def _jobs(self, directory: _Directory, pool: ThreadPoolExecutor) -> None:
        """Hand over what has to be read."""
        known = directory.known
        if not directory.parts and known is not None:  # listed as the same, then a directory below had changed
            directory.parts = [part for name, part in prints_by_name(known.prints).items() for part in (part, name + b"/")]
        old: dict[bytes, bytes] = {}
        if known is not None:
            old = prints_by_name(known.prints)
            entries = read_trees(self.store, (known.tree,))[known.tree]
            directory.entries = {entry.name: entry for entry in entries}
        self.batch_directories += 1
        for index in range(0, len(directory.parts), 2):
            stamp, name = directory.parts[index], directory.parts[index + 1][:-1]
            mode, size = PRINT.unpack_from(stamp)[:2]
            if mode & TYPE_BITS != S_IFREG:
                continue
            if old.get(name) == stamp and name in directory.entries:
                continue
            directory.pending += 1
            self.batch.append((directory, name))
            self.batch_bytes += size
            if len(self.batch) >= BATCH_FILES or self.batch_bytes >= BATCH_BYTES:
                self._submit(pool)
        if self.batch_directories >= BATCH_DIRECTORIES:
            self._submit(pool)

    def _submit(self, pool: ThreadPoolExecutor) -> None:
        if self.batch:
            self.running[pool.submit(self._read_batch, self.batch)] = self.batch
        self.batch, self.batch_bytes, self.batch_directories = [], 0, 0
        while len(self.running) > pool_limit(pool):
            self._collect(pool_limit(pool))

    def _read_batch(self, batch: list[tuple[_Directory, bytes]]) -> tuple[list[Content | str | None], int]:
        """In a thread."""
        ingest = Ingest(self.writer, self.level, {})
        contents: list[Content | str | None] = []
        for directory, name in batch:
            self._check_time()
            contents.append(read_stable(name, directory.fd, ingest))
        ingest.flush()
        return contents, ingest.read_bytes

    def _collect(self, running_max: int) -> None:
        """Take what the threads have done, wait while more than `running_max` batches are out, finish directories."""
        if self.running:
            out = len(self.running) > running_max
            done, _ = wait(self.running, timeout=None if out else 0, return_when=FIRST_COMPLETED)
            for future in done:
                contents, read_bytes = future.result()
                self.read_bytes += read_bytes
                for (directory, name), content in zip(self.running.pop(future), contents, strict=True):
                    directory.contents[name] = content
                    directory.pending -= 1
        while self.waiting and not self.waiting[0].pending:
            self._finish(self.waiting.popleft())

    def _finish(self, directory: _Directory) -> None:
        entries: list[Entry] = []
        prints: list[bytes] = []
        for index in range(0, len(directory.parts), 2):
            stamp, name = directory.parts[index], directory.parts[index + 1][:-1]
            entry, stamp = self._entry(directory, name, stamp)
            if entry is not None:
                entries.append(entry)
                prints += (stamp, name, b"/")
        entries.sort(key=lambda entry: entry.name)
        chunks = encode_tree(entries)
        digest = digest_of(chunks[-1])
        count = sum(entry.count for entry in entries)
        size_bytes = sum(entry.size for entry in entries)
        if directory.known is None or directory.known.tree != digest:
            self.trees += chunks
            self.trees_bytes += sum(map(len, chunks))
            if len(self.trees) >= BATCH_FILES or self.trees_bytes > BATCH_BYTES:
                self._store_trees()
        self.seen[directory.path] = Seen(b"".join(prints), digest, count, size_bytes)
        self._result(directory, digest, count, size_bytes)
        _close(directory)
        directory.parts, directory.entries, directory.contents = [], {}, {}

    def _entry(self, directory: _Directory, name: bytes, stamp: bytes) -> tuple[Entry | None, bytes]:
        """What a name becomes in the tree, and the print to remember for it; None leaves it out of both."""
        mode, size, mtime_ns, _, _ = PRINT.unpack(stamp)
        permissions, kind = mode & 0o777, mode & TYPE_BITS
        if kind == S_IFREG:
            if name not in directory.contents:
                return directory.entries[name], stamp
            content = directory.contents[name]
            if isinstance(content, Content):
                status = content.status
                entry = Entry(
                    FILE, status.st_mode & 0o777, status.st_mtime_ns, status.st_size, 1, name, content.body
                )
                return entry, content.prints
            if content is not None:
                self._skip(directory.path + b"/" + name, content)
        elif kind == S_IFDIR:
            if name in directory.children:
                tree, count, below = directory.children[name]
                return Entry(DIRECTORY, permissions, mtime_ns, below, count, name, tree), stamp
        elif kind == S_IFLNK:
            try:
                target = os.readlink(name, dir_fd=directory.fd)
            except OSError:
                return None, stamp  # gone or replaced since it was listed
            return Entry(LINK, 0o777, mtime_ns, 0, 1, name, target), stamp
        else:
            self._skip(directory.path + b"/" + name, KINDS.get(kind, "unknown kind"))
        return None, stamp

    def _store_trees(self) -> None:
        if self.trees:
            self.put_new(self.trees)
            self.trees, self.trees_bytes = [], 0

    @staticmethod
    def _result(directory: _Directory, tree: bytes, count: int, size_bytes: int) -> None:
        if directory.parent is not None:
            directory.parent.children[directory.name] = (tree, count, size_bytes)
        else:
            directory.children[b""] = (tree, count, size_bytes)


def pool_limit(pool: ThreadPoolExecutor) -> int:
    """Batches out at once: one running and one ready per thread."""
    return 2 * pool._max_workers  # noqa: SLF001  # pyright: ignore[reportPrivateUsage] (it has no public name)


def _close(directory: _Directory) -> None:
    if directory.fd >= 0:
        os.close(directory.fd)
        directory.fd = -1


