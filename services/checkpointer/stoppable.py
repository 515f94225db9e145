"""A chunk store that work on a thread can be called back from: a thread cannot be cancelled, but it reads chunks."""

import threading
from collections.abc import Collection, Iterable, Iterator

from snapshots.errors import Transient
from snapshots.port import ChunkStore, ChunkWriter, StoreStats, SweepReport


class StoppableStore:
    """The same store until `stop`; from then on everything that is asked of it fails as `Transient`."""

    def __init__(self, base: ChunkStore) -> None:
        self._base = base
        self._stopped = threading.Event()

    @property
    def is_stopped(self) -> bool:
        return self._stopped.is_set()

    def stop(self) -> None:
        self._stopped.set()

    def generation(self) -> str:
        return self._usable().generation()

    def missing(self, digests: Collection[bytes]) -> set[bytes]:
        return self._usable().missing(digests)

    def get(self, digest: bytes) -> bytes:
        return self._usable().get(digest)

    def get_many(self, digests: Iterable[bytes]) -> Iterator[tuple[bytes, bytes]]:
        for found in self._usable().get_many(digests):
            self._usable()
            yield found

    def writer(self) -> ChunkWriter:
        return self._usable().writer()

    def commit(self, root: bytes, generation: str) -> bool:
        return self._usable().commit(root, generation)

    def sweep(self, live: Collection[bytes], grace_s: float) -> SweepReport:
        return self._usable().sweep(live, grace_s)

    def stats(self) -> StoreStats:
        return self._usable().stats()

    def close(self) -> None:
        """The store below belongs to whoever opened it."""

    def _usable(self) -> ChunkStore:
        if self._stopped.is_set():
            raise Transient("told to stop")
        return self._base
