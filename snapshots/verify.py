"""Is a snapshot whole, and is a directory what a snapshot says?"""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Self

from snapshots.chunks import Chunk, decode, digest_of
from snapshots.compare import pairs, roots_of
from snapshots.errors import Corrupt, HostileManifest, Refused
from snapshots.port import ChunkStore, ChunkWriter, StoreStats, SweepReport
from snapshots.trees import LEAF_MAGIC, PARTS_MAGIC, reachable, read_manifest

if TYPE_CHECKING:
    from types import TracebackType

PROBLEMS_MAX = 32
LOOKUP = 4096


@dataclass(frozen=True, slots=True)
class Verification:
    """`problems` is empty when all is well, and names at most 32 of what is not."""

    chunks: int
    raw_bytes: int
    problems: tuple[str, ...]

    @property
    def ok(self) -> bool:
        return not self.problems


def absent(store: ChunkStore, snapshot: bytes, most: int = PROBLEMS_MAX) -> list[bytes]:
    """Chunks that a snapshot refers to and the store does not hold, at most `most`; contents are not read."""
    lost: list[bytes] = []
    try:
        for digests in reachable(store, snapshot, frozenset()):
            lost += sorted(store.missing(digests))
            if len(lost) >= most:
                break
    except Corrupt:
        return lost or [snapshot]
    return lost[:most]


def is_whole(store: ChunkStore, snapshot: str) -> bool:
    """Whether the store holds everything a snapshot refers to (present, not read: `verify` reads)."""
    return not absent(store, bytes.fromhex(snapshot), most=1)


def verify(snapshot: str, store: ChunkStore) -> Verification:
    """Read every chunk of a snapshot and check it against its digest."""
    problems: list[str] = []
    seen: set[bytes] = set()
    raw_bytes = 0
    try:
        for digests in reachable(store, bytes.fromhex(snapshot), frozenset()):
            new = sorted(digests - seen)
            seen.update(new)
            for start in range(0, len(new), LOOKUP):
                raw_bytes += _verify_batch(store, new[start : start + LOOKUP], problems)
    except (Corrupt, HostileManifest) as error:
        problems.append(str(error))
    return Verification(chunks=len(seen), raw_bytes=raw_bytes, problems=tuple(problems[:PROBLEMS_MAX]))


def _verify_batch(store: ChunkStore, digests: list[bytes], problems: list[str]) -> int:
    try:
        return sum(len(raw) for _, raw in store.get_many(digests))
    except Corrupt:
        pass  # find out which, one by one
    raw_bytes = 0
    for digest in digests:
        if len(problems) >= PROBLEMS_MAX:
            break
        try:
            raw_bytes += len(store.get(digest))
        except Corrupt as error:
            problems.append(str(error))
    return raw_bytes


def verify_restored(snapshot: str, roots: Mapping[str, Path], store: ChunkStore) -> Verification:
    """Read directories in full and compare them with a snapshot: names, kinds, modes, times, targets and contents."""
    from snapshots.capture import capture  # noqa: PLC0415 (capture imports this module)

    scratch = _Scratch(store)
    found = capture(roots, scratch, deadline_s=3600)
    problems = [f"{path}: {what}" for path, what in _differences(scratch, snapshot, found.digest)]
    problems += found.skipped
    return Verification(
        chunks=found.file_count, raw_bytes=found.captured_bytes, problems=tuple(problems[:PROBLEMS_MAX])
    )


def _differences(store: ChunkStore, wanted: str, found: str) -> Iterator[tuple[str, str]]:
    if wanted == found:
        return
    before = roots_of(read_manifest(store, bytes.fromhex(wanted)))
    after = roots_of(read_manifest(store, bytes.fromhex(found)))
    for path, was, now in pairs(store, before, after, whole=False):
        shown = path.decode("utf-8", "backslashreplace")
        if was is None:
            yield shown, "is there, but not in the snapshot"
        elif now is None:
            yield shown, "is missing"
        else:
            fields = [name for name in ("kind", "mode", "mtime_ns", "size") if getattr(was, name) != getattr(now, name)]
            if fields or was.body != now.body:
                yield shown, "differs in " + (", ".join(fields) or "content")


class _Scratch:
    """A store on top of another that keeps the new trees in memory, and of new data nothing."""

    def __init__(self, base: ChunkStore) -> None:
        self._base = base
        self._new: dict[bytes, bytes] = {}
        self.stored_bytes = 0

    def generation(self) -> str:
        return self._base.generation()

    def missing(self, digests: Collection[bytes]) -> set[bytes]:
        return self._base.missing([digest for digest in digests if digest not in self._new])

    def get(self, digest: bytes) -> bytes:
        raw = self._new.get(digest)
        return self._base.get(digest) if raw is None else raw

    def get_many(self, digests: Iterable[bytes]) -> Iterator[tuple[bytes, bytes]]:
        wanted = set(digests)
        yield from ((digest, self._new[digest]) for digest in wanted if digest in self._new)
        yield from self._base.get_many(wanted - self._new.keys())

    def writer(self) -> ChunkWriter:
        return self

    def put(self, chunks: Sequence[Chunk]) -> None:
        for chunk in chunks:
            raw = decode(chunk)
            if raw.startswith((LEAF_MAGIC, PARTS_MAGIC, b'{"file_count":')):
                self._new[digest_of(raw)] = raw

    def flush(self) -> None: ...

    def commit(self, root: bytes, generation: str) -> bool:  # noqa: ARG002
        return True

    def sweep(self, live: Collection[bytes], grace_s: float) -> SweepReport:  # noqa: ARG002
        raise Refused("nothing to sweep here")

    def stats(self) -> StoreStats:
        return self._base.stats()

    def close(self) -> None: ...

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: "TracebackType | None", /
    ) -> None: ...
