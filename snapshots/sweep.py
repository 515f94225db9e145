"""Mark and sweep, beside concurrent writers.

Marking reads manifests and trees only. It needs no lock: what is committed meanwhile is seen at the end, inside the
transaction that removes; and a capture that commits after it sees a new generation and checks its chunks again.
"""

import fcntl
import os
import time
from collections import defaultdict
from collections.abc import Collection
from contextlib import suppress
from typing import TYPE_CHECKING

from snapshots.chunks import HEADER
from snapshots.errors import Corrupt, HostileManifest, MissingChunk, SnapshotError, Transient
from snapshots.packs import Pack, sync_directory
from snapshots.port import SweepReport
from snapshots.trees import reachable

if TYPE_CHECKING:
    from snapshots.directory import DirectoryChunkStore

REWRITE_BELOW = 0.5
SMALL_PACK_BYTES = 1 << 20
SMALL_PACKS_MAX = 256
COMMITS_SEEN_MAX = 100
"""More small packs than this are merged: each capture leaves one, and each costs a file."""


class _Marks:
    """What is live: digests, and the roots they were reached from."""

    def __init__(self, store: "DirectoryChunkStore", before: float) -> None:
        self._store, self._before = store, before
        self._followed: set[bytes] = set()
        """Only a snapshot that was followed to its end may shorten the next."""
        self._left: set[bytes] = set()
        """What could be reached of damaged ones: evidence."""
        self.roots: set[bytes] = set()

    @property
    def digests(self) -> set[bytes]:
        return self._followed | self._left

    def add_live(self, roots: Collection[bytes]) -> None:
        """Mark what must stay. One that is damaged keeps what can be reached of it, and stops no sweep for ever.

        Raises:
            MissingChunk: One is not all there: this may be the wrong store, so nothing is removed.
        """
        for root in roots:
            self._add(root, (HostileManifest, Corrupt), but=MissingChunk)

    def add_committed(self) -> None:
        """Mark what was committed of late; anybody who may upload may commit anything, also what is no snapshot."""
        for root in self.unmarked():
            self._add(root, (HostileManifest, Corrupt))

    def unmarked(self) -> set[bytes]:
        return self._store.index.roots(self._before) - self.roots

    def _add(
        self, root: bytes, passed: tuple[type[SnapshotError], ...], *, but: type[SnapshotError] | None = None
    ) -> None:
        found: set[bytes] = set()
        try:
            for digests in reachable(self._store, root, self._followed):
                found |= digests
        except passed as error:
            if but is not None and isinstance(error, but):
                raise
            self._left |= found | {root}
        else:
            self._followed |= found
        self.roots.add(root)


def sweep_directory(store: "DirectoryChunkStore", live: Collection[bytes], grace_s: float) -> SweepReport:
    before = time.time() - grace_s
    store.compare_index()
    marks = _Marks(store, before)
    marks.add_live(live)
    marks.add_committed()
    dead, sparse, pack_bytes = _plan(store, marks.digests, before)
    rewritten = _rewrite(store, sparse, marks.digests) if sparse else None
    removed = dead | sparse
    if not removed:
        _remove_leftovers(store, before)
        return SweepReport(live_chunks=len(marks.digests), packs_dropped=0, packs_rewritten=0, freed_bytes=0)
    names = _remove(store, marks, before, removed, rewritten)
    _remove_leftovers(store, before)
    freed_bytes = sum(pack_bytes[pack_id] for pack_id in removed) - (rewritten.size_bytes if rewritten else 0)
    return SweepReport(
        live_chunks=len(marks.digests),
        packs_dropped=len(removed & dead),
        packs_rewritten=len(removed & sparse),
        freed_bytes=max(0, freed_bytes) if names else 0,
    )


def _plan(store: "DirectoryChunkStore", live: set[bytes], before: float) -> tuple[set[int], set[int], dict[int, int]]:
    """Which packs hold nothing live, which too little, and how large packs are."""
    live_bytes: defaultdict[int, int] = defaultdict(int)
    for digest, pack_id, stored_bytes in store.index.chunks_by_pack():
        if digest in live:
            live_bytes[pack_id] += HEADER.size + stored_bytes
    old = [pack for pack in store.index.packs().values() if pack.created_at < before]
    dead = {pack.id for pack in old if not live_bytes[pack.id]}
    sparse = {pack.id for pack in old if 0 < live_bytes[pack.id] < pack.size_bytes * REWRITE_BELOW}
    small = {pack.id for pack in old if live_bytes[pack.id] and pack.size_bytes < SMALL_PACK_BYTES}
    if len(small) > SMALL_PACKS_MAX:
        sparse |= small
    return dead, sparse, {pack.id: pack.size_bytes for pack in old}


def _rewrite(store: "DirectoryChunkStore", pack_ids: set[int], live: set[bytes]) -> Pack:
    """Copy what is live into one new pack, verified; durable, but not in the index yet."""
    pack = Pack(store.path)
    try:
        for pack_id in sorted(pack_ids):
            wanted = [location.digest for location in store.index.digests_in(pack_id) if location.digest in live]
            for chunk in store.stored(wanted):
                pack.add(chunk)
        pack.seal()
    finally:
        pack.give_up()
    return pack


def _remove(
    store: "DirectoryChunkStore", marks: _Marks, before: float, removed: set[int], rewritten: Pack | None
) -> list[str]:
    """Remove packs from the index, synced, then from the directory; under the lock, so that no comparison of the two
    adds them again in between.

    A root that was committed since the marking may count on chunks in packs to be removed: it is marked as well, and
    such packs are taken out of `removed`.
    """
    survivors = set(rewritten.rows) if rewritten else set[bytes]()
    for _ in range(COMMITS_SEEN_MAX):
        marks.add_committed()
        needed = marks.digests - survivors
        kept = {pack_id for digest, pack_id, _ in store.index.chunks_by_pack() if digest in needed}
        removed -= kept
        with store.locked(), store.index.transaction(durable=True):
            if marks.unmarked():
                continue
            known = {pack.id: name for name, pack in store.index.packs().items()}
            names = [known[pack_id] for pack_id in removed if pack_id in known]
            store.index.forget_packs(removed)
            if rewritten is not None:
                store.index.replace_pack(rewritten.name, rewritten.size_bytes, rewritten.rows.values())
            store.index.forget_roots(before)
            store.index.new_generation()
        with store.locked():
            for name in names:
                (store.packs_path / name).unlink(missing_ok=True)
            sync_directory(store.packs_path)
        return names
    if rewritten is not None:
        (store.packs_path / rewritten.name).unlink(missing_ok=True)
    raise Transient(
        f"{COMMITS_SEEN_MAX} captures in a row were committed while sweeping {store.path}; sweep again later"
    )


def _remove_leftovers(store: "DirectoryChunkStore", before: float) -> None:
    """Remove what killed writers left in tmp/: old, and no longer locked."""
    with os.scandir(store.path / "tmp") as entries:
        for entry in entries:
            with suppress(FileNotFoundError, BlockingIOError):
                if entry.stat().st_mtime >= before:
                    continue
                fd = os.open(entry.path, os.O_RDONLY | os.O_CLOEXEC)
                try:
                    fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    os.unlink(entry.path)  # noqa: PTH108
                finally:
                    os.close(fd)
