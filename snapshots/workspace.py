"""A workspace: directories that a snapshot is materialised into and captured from."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

from snapshots.capture import Limits, Snapshot, capture
from snapshots.port import ChunkStore
from snapshots.restore import restore
from snapshots.statcache import StatCache


class Workspace(Protocol):
    """How files get there and how changes are found is the adapter's affair: copies and a stat scan, or a mount whose
    writable layer is what changed. Its user sees directories. One call at a time."""

    @property
    def roots(self) -> Mapping[str, Path]:
        """The directories, by their names in snapshots."""
        ...

    def materialise(self, snapshot: str) -> None:
        """Make the directories be what the snapshot says; they must be new or empty. Raises as `restore` does."""
        ...

    def capture(self, *, deadline_s: float) -> Snapshot:
        """Capture them, counted against the last snapshot captured or materialised. Raises as `capture` does."""
        ...


class DirectoryWorkspace:
    """Plain directories: restored by copying, captured by a stat scan."""

    def __init__(
        self, roots: Mapping[str, Path], store: ChunkStore, *, limits: Limits | None = None, exclude: Sequence[str] = ()
    ) -> None:
        self.roots: Mapping[str, Path] = dict(roots)
        self._store, self._limits, self._exclude = store, limits, exclude
        self._cache = StatCache()
        self._last: str | None = None

    def materialise(self, snapshot: str) -> None:
        self._cache = restore(snapshot, self.roots, self._store, limits=self._limits)
        self._last = snapshot

    def capture(self, *, deadline_s: float) -> Snapshot:
        snapshot = capture(
            self.roots,
            self._store,
            parent=self._last,
            cache=self._cache,
            deadline_s=deadline_s,
            limits=self._limits,
            exclude=self._exclude,
        )
        self._last = snapshot.digest
        return snapshot
