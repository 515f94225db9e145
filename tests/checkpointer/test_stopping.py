"""A checkpointer that is told to stop does not finish restoring a large snapshot first."""

import asyncio
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

from services.checkpointer.chunks import Chunks
from snapshots.capture import capture
from snapshots.directory import DirectoryChunkStore
from snapshots.errors import Transient
from tests.harness import eventually


class SlowStore(DirectoryChunkStore):
    """Says when it is read from, and goes on only when it may."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.is_read = threading.Event()
        self.may_go_on = threading.Event()

    def get_many(self, digests: Iterable[bytes]) -> Iterator[tuple[bytes, bytes]]:
        self.is_read.set()
        assert self.may_go_on.wait(10)
        yield from super().get_many(digests)


async def test_a_verification_ends_at_its_next_chunk_and_nothing_is_said_of_the_checkpoint(tmp_path: Path) -> None:
    workspace = tmp_path / "workspace"
    workspace.mkdir()
    for number in range(100):
        (workspace / f"file-{number}").write_text(f"{number}")
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    with DirectoryChunkStore(tmp_path / "store") as fast:
        snapshot = capture({"workspace": workspace}, fast).digest
    with SlowStore(tmp_path / "store") as store:
        chunks = Chunks(store, threads=1, scratch=scratch)
        verdict = asyncio.ensure_future(chunks.verdict(snapshot))
        assert await asyncio.to_thread(store.is_read.wait, 10)
        closing = asyncio.ensure_future(asyncio.to_thread(chunks.close))
        stopping = chunks._store  # pyright: ignore[reportPrivateUsage]  # nothing else tells that `close` has begun
        await eventually(lambda: stopping.is_stopped)
        store.may_go_on.set()
        await closing
        with pytest.raises(Transient, match="told to stop"):
            await verdict
    assert list(scratch.iterdir()), "removing it takes as long as making it; the next start does"
