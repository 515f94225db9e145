"""Capture directories into a chunk store as a snapshot."""

import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from stat import S_IFDIR, S_IFLNK, S_IFREG

from snapshots.compare import count_changes
from snapshots.errors import DeadlineExceeded, LimitExceeded, Refused, Swept, Transient
from snapshots.port import ChunkStore, ChunkWriter
from snapshots.reader import Content, Ingest, read_stable
from snapshots.scan import OPEN_DIRECTORY, TYPE_BITS, list_directory
from snapshots.statcache import PRINT, Seen, StatCache, prints_by_name
from snapshots.trees import DEPTH_MAX, DIRECTORY, FILE, LINK, Entry, Manifest, Root, encode_tree, read_trees
from snapshots.verify import absent

SKIPPED_MAX = 32
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

    def check_depth(self, depth: int, path: bytes) -> None:
        if depth > self.depth_max:
            raise LimitExceeded(f"{path[:200]!r}…: deeper than depth_max = {self.depth_max} directories")


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
    depth: int
    parts: list[bytes]
    left: list[str]
    """Directories in it that were not entered yet."""
    known: Seen | None
    same: bool
    """Nothing in it or below it has changed so far."""
    done: dict[bytes, Seen] = field(default_factory=dict[bytes, Seen])
    """The directories in it, by name."""


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
        manifest = Manifest(tuple(run.root(name, roots[name]) for name in sorted(roots)))
        digest = run.ingest.add(manifest.encode())
        run.ingest.flush()
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
    """One run: depth first, a directory becomes a tree when everything below it has.

    One thread does it all, and only syncing packs happens beside it: small files are mostly interpreter time, and two
    threads cost 1.4 times the CPU of one for 0.9 of its wall time (47,000 files, 800 MB).
    """

    def __init__(  # noqa: PLR0917 (one caller, above)
        self,
        store: ChunkStore,
        writer: ChunkWriter,
        cache: StatCache,
        deadline: float,
        limits: Limits,
        level: int,
        exclude: Sequence[str],
    ) -> None:
        self.store, self.cache, self.deadline, self.limits = store, cache, deadline, limits
        self.ingest = Ingest(writer, level)
        self.excluded = frozenset(os.fsencode(path.rstrip("/")) for path in exclude)
        self.seen: dict[bytes, Seen] = {}
        self.skipped: list[str] = []
        self.skipped_count = 0
        self.files = 0
        self.size_bytes = 0
        self.read_bytes = 0

    def root(self, name: str, path: Path) -> Root:
        if not name or "/" in name or name in (".", ".."):
            raise Refused(f"{name!r} cannot be a root's name")
        try:
            fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except (FileNotFoundError, NotADirectoryError, PermissionError) as error:
            raise Refused(f"root {name}: {path}: {error.strerror}") from error
        status = os.fstat(fd)
        self._walk(self._list(fd, name.encode(), name.encode(), None))
        seen = self.seen[name.encode()]
        return Root(name, status.st_mode & 0o777, status.st_mtime_ns, seen.tree, seen.file_count, seen.size_bytes)

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

    def _walk(self, top: _Directory) -> None:
        stack = [top]
        try:
            while stack:
                directory = stack[-1]
                if not directory.left:
                    self._leave(directory)
                    os.close(stack.pop().fd)
                elif child := self._enter(directory, os.fsencode(directory.left.pop())):
                    stack.append(child)
        finally:
            for directory in stack:
                os.close(directory.fd)

    def _enter(self, directory: _Directory, name: bytes) -> _Directory | None:
        try:
            fd = os.open(name, OPEN_DIRECTORY, dir_fd=directory.fd)
        except (FileNotFoundError, NotADirectoryError):
            directory.same = False
            return None
        except PermissionError:
            self._skip(directory.path + b"/" + name, "unreadable (permission denied)")
            directory.same = False
            return None
        return self._list(fd, directory.path + b"/" + name, name, directory)

    def _list(self, fd: int, path: bytes, name: bytes, parent: _Directory | None) -> _Directory:
        try:
            self._check_time()
            parts, directories, size_bytes = list_directory(fd, path, self.excluded)
            self.files += len(parts) // 2 - len(directories)
            self.size_bytes += size_bytes
            self.limits.check(self.files, self.size_bytes, path.decode("utf-8", "backslashreplace"))
            depth = parent.depth + 1 if parent else 1
            self.limits.check_depth(depth, path)
        except BaseException:
            os.close(fd)
            raise
        known = self.cache.directories.get(path)
        same = known is not None and known.prints == b"".join(parts)
        return _Directory(path, name, fd, parent, depth, parts, directories, known, same)

    def _leave(self, directory: _Directory) -> None:
        if directory.same and directory.known is not None:
            seen = directory.known
        else:
            seen = self._tree(directory)
            if directory.parent is not None:
                directory.parent.same = False
        self.seen[directory.path] = seen
        if directory.parent is not None:
            directory.parent.done[directory.name] = seen

    def _tree(self, directory: _Directory) -> Seen:
        stamps, old = self._known(directory.known)
        entries: list[Entry] = []
        prints: list[bytes] = []
        parts = iter(directory.parts)
        for stamp, name_slash in zip(parts, parts, strict=True):
            name = name_slash[:-1]
            if stamps.get(name) == stamp and name in old and old[name].kind != DIRECTORY:
                entry = old[name]
            else:
                entry, stamp = self._entry(directory, name, stamp)  # noqa: PLW2901
            if entry is not None:
                entries.append(entry)
                prints += (stamp, name_slash)
        entries.sort(key=lambda entry: entry.name)
        digest = b""
        for chunk in encode_tree(entries):
            digest = self.ingest.add(chunk)
        count = sum(entry.files for entry in entries)
        return Seen(b"".join(prints), digest, count, sum(entry.size for entry in entries))

    def _known(self, known: Seen | None) -> tuple[dict[bytes, bytes], dict[bytes, Entry]]:
        """What the last capture saw here, and what it made of it, by name."""
        if known is None or not known.prints:
            return {}, {}
        entries = read_trees(self.store, (known.tree,))[known.tree]
        return prints_by_name(known.prints), {entry.name: entry for entry in entries}

    def _entry(self, directory: _Directory, name: bytes, stamp: bytes) -> tuple[Entry | None, bytes]:
        """What a name becomes in the tree, and the print to remember for it; None leaves it out of both."""
        mode, size, mtime_ns, _, _ = PRINT.unpack(stamp)
        kind = mode & TYPE_BITS
        if kind == S_IFREG:
            return self._file(directory, name, size)
        if kind == S_IFDIR:
            if below := directory.done.get(name):
                return Entry(
                    DIRECTORY, mode & 0o777, mtime_ns, below.size_bytes, below.file_count, name, below.tree
                ), stamp
        elif kind == S_IFLNK:
            try:
                return Entry(LINK, 0o777, mtime_ns, 0, 1, name, os.readlink(name, dir_fd=directory.fd)), stamp
            except OSError:
                pass  # gone or replaced since it was listed
        else:
            self._skip(directory.path + b"/" + name, KINDS.get(kind, "unknown kind"))
        return None, stamp

    def _file(self, directory: _Directory, name: bytes, size: int) -> tuple[Entry | None, bytes]:
        found = read_stable(name, directory.fd, self.ingest, check_time=self._check_time)
        if isinstance(found, Content):
            status = found.status
            self.read_bytes += status.st_size
            mode, mtime_ns, size = status.st_mode & 0o777, status.st_mtime_ns, status.st_size
            return Entry(FILE, mode, mtime_ns, size, 1, name, found.body), found.prints
        if found is not None:
            self._skip(directory.path + b"/" + name, found)
        return None, b""
