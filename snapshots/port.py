"""The port to where chunks live, and what its adapters promise."""

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Protocol, Self

from snapshots.chunks import Chunk


@dataclass(frozen=True, slots=True)
class StoreStats:
    """How much a store holds; `raw_bytes` before compression, `stored_bytes` on disk."""

    packs: int
    chunks: int
    raw_bytes: int
    stored_bytes: int


@dataclass(frozen=True, slots=True)
class SweepReport:
    """What a sweep did. A pack is dropped when nothing in it is live, rewritten when less than half of it is."""

    live_chunks: int
    packs_dropped: int
    packs_rewritten: int
    freed_bytes: int


class ChunkWriter(Protocol):
    """One writing session; any number of threads may use it, any number of sessions may write at once."""

    def missing(self, digests: Collection[bytes]) -> set[bytes]:
        """Which of these are neither in the store nor put in this session."""
        ...

    def put(self, chunks: Sequence[Chunk]) -> None:
        """Add chunks; they may become readable at once or only at `flush`.

        Raises:
            StoreFull: No space; the session is of no use any more, the store is as it was.
        """
        ...

    def flush(self) -> None:
        """Return when everything put is on stable storage and readable by everybody."""
        ...

    @property
    def stored_bytes(self) -> int:
        """What this session added to the store, compressed."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> None: ...


class ChunkStore(Protocol):
    """Chunks by digest, for many processes at once. Adapters block; all but a writer's put may be repeated freely.

    Open it after a fork, never before.
    """

    def generation(self) -> str:
        """Changes whenever a sweep has removed anything: until then what was in the store still is."""
        ...

    def missing(self, digests: Collection[bytes]) -> set[bytes]:
        """Which of these the store does not hold."""
        ...

    def get(self, digest: bytes) -> bytes:
        """The chunk's bytes, verified.

        Raises:
            MissingChunk: It is not there.
            Corrupt: It is there, but it is not what it should be.
        """
        ...

    def get_many(self, digests: Iterable[bytes]) -> Iterator[tuple[bytes, bytes]]:
        """Each chunk once, verified, in the order the store reads fastest. Raises as `get` does."""
        ...

    def writer(self) -> ChunkWriter:
        """Start a writing session; use it as a context manager, leaving it without `flush` gives the rest up."""
        ...

    def commit(self, root: bytes, generation: str) -> bool:
        """Say that a snapshot is complete: a sweep keeps it for its grace even if nobody calls it live yet.

        Returns:
            False when a sweep came between: check that everything is still there, then try with the new generation.
        """
        ...

    def sweep(self, live: Collection[bytes], grace_s: float) -> SweepReport:
        """Remove what no manifest in `live`, nor one committed in the last `grace_s`, refers to.

        Packs younger than `grace_s` are never touched, so a capture must not take longer than that.

        Raises:
            Corrupt: A live manifest is not whole; nothing was removed.
        """
        ...

    def stats(self) -> StoreStats: ...

    def close(self) -> None: ...
