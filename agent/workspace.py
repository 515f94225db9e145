"""The directories of one incarnation: restored from a snapshot, given to the runner's user, captured into the store."""

import os
import time
from dataclasses import dataclass
from pathlib import Path

from agent import inject
from events.agent import AgentSpec
from events.machine import InjectedFile
from snapshots.capture import Snapshot, capture
from snapshots.directory import DirectoryChunkStore
from snapshots.port import ChunkStore
from snapshots.restore import restore
from snapshots.statcache import StatCache
from snapshots.trees import read_manifest
from snapshots.unchanged import is_unchanged

ROOTS = ("workspace", "home")
"""What a snapshot holds; `tmp` is not kept."""


class NoStore(Exception):
    """The chunk store that the spec names cannot be used from here."""


@dataclass(frozen=True, slots=True)
class Restored:
    """What stands in the workspace now."""

    file_count: int
    size_bytes: int
    restore_ms: int


class Workspace:
    """Blocking; at most one call at a time. Owner of everything is whoever owned the directories at first."""

    def __init__(self, spec: AgentSpec) -> None:
        self._spec = spec
        self._root = Path(spec.root)
        self._cache = StatCache()
        self._store: ChunkStore | None = None

    def restore(self) -> Restored:
        """Fill the directories from the snapshot and put the injected files.

        Raises:
            SnapshotError: The snapshot cannot be had; the message says what and why.
            inject.Escape: A file to inject would leave the workspace.
        """
        started = time.monotonic()
        store = self._open_store()
        manifest = read_manifest(store, bytes.fromhex(self._spec.snapshot))
        held = [root.name for root in manifest.roots if root.name in ROOTS]
        owner = _owner(self._root / "workspace")
        mine = (os.geteuid(), os.getegid())
        targets = {name: self._root / name for name in held}
        self._cache = restore(self._spec.snapshot, targets, store, owner=None if owner == mine else owner)
        for file in self._spec.files:
            content = self._content(file)
            inject.put(str(self._root / "workspace"), file.path, content, mode=file.mode, owner=owner)
        restore_ms = round((time.monotonic() - started) * 1000)
        return Restored(manifest.file_count, manifest.size_bytes, restore_ms)

    def capture(self, parent: str, deadline_s: float) -> Snapshot:
        """Capture what changed since the last capture.

        Raises:
            SnapshotError: It could not be done; the message says why. Transient: it may be asked again.
        """
        roots = {name: self._root / name for name in ROOTS}
        return capture(roots, self._open_store(), parent=parent, cache=self._cache, deadline_s=deadline_s)

    def is_unchanged(self, deadline_s: float) -> bool:
        """Whether the workspace, which is not the home, is as the last capture saw it.

        Raises:
            SnapshotError: It took too long.
        """
        return is_unchanged("workspace", self._root / "workspace", self._cache, deadline_s=deadline_s)

    def put(self, path: str, content: bytes) -> None:
        """Write a file of the runner's user at `home/…` or `workspace/…`.

        Raises:
            inject.Escape: Something that is not a directory stands in the way.
        """
        owner = _owner(self._root / "workspace")
        where, _, below = path.partition("/")
        (self._root / where).mkdir(exist_ok=True)
        inject.put(str(self._root / where), below, content, mode=0o644, owner=owner)

    def read(self, path: str, bytes_max: int) -> bytes | None:
        """Return the first `bytes_max` bytes of a file at `home/…` or `workspace/…`; None when there is none."""
        file = self.open(path)
        if file is None:
            return None
        with os.fdopen(file, "rb") as opened:
            return opened.read(bytes_max)

    def size_bytes(self, path: str) -> int:
        """How large a file is; 0 when there is none."""
        file = self.open(path)
        if file is None:
            return 0
        try:
            return os.fstat(file).st_size
        finally:
            os.close(file)

    def open(self, path: str) -> int | None:
        """Open a file at `home/…` or `workspace/…` for reading, through no link; None when there is none."""
        where, _, below = path.partition("/")
        if not (self._root / where).is_dir():
            return None
        return inject.open_file(str(self._root / where), below)

    def close(self) -> None:
        if self._store is not None:
            self._store.close()

    def _open_store(self) -> ChunkStore:
        if self._store is None:
            where = self._spec.store
            if "://" in where:
                raise NoStore(f"store {where[:200]!r}: only a directory can be used by this agent")
            self._store = DirectoryChunkStore(Path(where))
        return self._store

    def _content(self, file: InjectedFile) -> bytes:
        if file.digest is not None:
            return self._open_store().get(bytes.fromhex(file.digest))
        return (file.text or "").encode()


def _owner(directory: Path) -> tuple[int, int]:
    """Whose the runner's files are: the driver made the directory for that user; in a VM it may not be there yet."""
    directory.mkdir(exist_ok=True)
    status = directory.stat()
    return status.st_uid, status.st_gid
