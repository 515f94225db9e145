"""The chunk store as the checkpointer asks it: on threads of its own, and with what it learned remembered."""

import asyncio
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Collection
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from services.checkpointer.stoppable import StoppableStore
from snapshots.capture import capture
from snapshots.errors import Corrupt, HostileManifest
from snapshots.port import ChunkStore, SweepReport
from snapshots.restore import restore
from snapshots.trees import reachable, read_manifest
from snapshots.verify import verify_restored

KNOWN_MAX = 1_000_000
"""Digests that are remembered to be there (100 bytes each); when there are more, all are forgotten."""
WORKSPACE = "workspace"

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Held:
    """What the store says of a snapshot. `problem` empty: it holds all of it, and the counts are its own."""

    file_count: int = 0
    size_bytes: int = 0
    problem: str = ""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What restoring a snapshot showed."""

    file_count: int
    verify_ms: int
    problem: str = ""


class Chunks:
    """Close it after use: it has threads."""

    def __init__(self, store: ChunkStore, threads: int, scratch: Path | None = None) -> None:
        self._store = StoppableStore(store)
        self._scratch = scratch
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="checkpointer")
        self._known: set[bytes] = set()
        self._generation = ""

    def close(self) -> None:
        """End soon what is still at work: restoring a large snapshot to compare it takes minutes."""
        self._store.stop()
        self._pool.shutdown(cancel_futures=True)

    async def held(self, snapshot: str) -> Held:
        """Look whether the store holds a snapshot's manifest and every chunk; what is known to be there is not looked up.

        Raises:
            snapshots.errors.Transient: The store could not answer.
        """
        return await self._run(lambda: self._held(snapshot))

    async def empty(self) -> str:
        """Return the digest of an empty workspace, which the store holds from now on."""
        return await self._run(self._empty)

    async def verdict(self, snapshot: str) -> Verdict:
        """Restore a snapshot into scratch and compare what came out, every byte.

        Raises:
            snapshots.errors.Transient, OSError: It could not be found out (no space); try later.
        """
        return await self._run(lambda: self._verdict(snapshot))

    async def sweep(self, live: Collection[str], grace_s: float) -> SweepReport:
        """Drop what no live snapshot refers to and nobody put there of late."""
        return await self._run(lambda: self._store.sweep([bytes.fromhex(each) for each in live], grace_s))

    async def _run(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._pool, work)

    def _held(self, snapshot: str) -> Held:
        generation = self._store.generation()
        if generation != self._generation or len(self._known) > KNOWN_MAX:
            self._known, self._generation = set(), generation
        known = self._known
        root = bytes.fromhex(snapshot)
        found: set[bytes] = set()
        try:
            if self._store.missing([root]):
                return Held(problem=f"the store does not hold the manifest {snapshot}")
            for digests in reachable(self._store, root, known):
                new = digests - known
                if lost := self._store.missing(new):
                    return Held(
                        problem=f"the store lacks {len(lost)} or more chunks of {snapshot}: {min(lost).hex()}, …"
                    )
                found |= new
            manifest = read_manifest(self._store, root)
        except (Corrupt, HostileManifest) as error:
            return Held(problem=f"snapshot {snapshot} cannot be read: {error}")
        if WORKSPACE not in {entry.name for entry in manifest.roots}:
            return Held(problem=f"snapshot {snapshot} has no directory {WORKSPACE!r} to start from")
        known |= found  # only what was followed to its end may shorten the next look
        return Held(manifest.file_count, manifest.size_bytes)

    def _empty(self) -> str:
        with tempfile.TemporaryDirectory(dir=self._scratch) as directory:
            workspace = Path(directory) / WORKSPACE
            workspace.mkdir(mode=0o755)
            os.utime(workspace, (0, 0))  # so that all empty workspaces are one snapshot
            return capture({WORKSPACE: workspace}, self._store).digest

    def _verdict(self, snapshot: str) -> Verdict:
        started = time.monotonic()
        directory = Path(tempfile.mkdtemp(prefix="verify-", dir=self._scratch))
        try:
            restored = directory / "restored"
            names = [entry.name for entry in read_manifest(self._store, bytes.fromhex(snapshot)).roots]
            restore(snapshot, restored, self._store)
            found = verify_restored(snapshot, {name: restored / name for name in names}, self._store)
            problem = "; ".join(found.problems)
        except (Corrupt, HostileManifest) as error:
            return Verdict(0, _since_ms(started), str(error))
        finally:
            if self._scratch is None or not self._store.is_stopped:
                _remove(directory)
        return Verdict(found.chunks, _since_ms(started), problem)


def _since_ms(started: float) -> int:
    return round((time.monotonic() - started) * 1000)


def _remove(directory: Path) -> None:
    """Remove a tree in which directories may be read-only."""
    for place, names, _ in os.walk(directory):
        for name in names:
            path = Path(place) / name
            if not path.is_symlink():
                path.chmod(0o700)
    shutil.rmtree(directory)
