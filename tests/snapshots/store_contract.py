"""What every chunk store does; each adapter's test class inherits this and says how to make one."""

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from snapshots.capture import capture
from snapshots.chunks import CHUNK_BYTES, RAW, Chunk, digest_of, encode
from snapshots.errors import MissingChunk, SnapshotError
from snapshots.port import ChunkStore
from snapshots.restore import restore
from snapshots.statcache import StatCache
from snapshots.verify import is_whole, verify
from tests.snapshots.trees_of_files import everything, seen, write


def chunk(raw: bytes) -> Chunk:
    return encode(digest_of(raw), raw)


def put(store: ChunkStore, *raws: bytes) -> list[bytes]:
    with store.writer() as writer:
        writer.put([chunk(raw) for raw in raws])
        writer.flush()
    return [digest_of(raw) for raw in raws]


class ChunkStoreContract:
    @pytest.fixture
    def store(self, tmp_path: Path) -> Iterator[ChunkStore]:
        raise NotImplementedError

    def test_what_was_put_and_flushed_is_got_back(self, store: ChunkStore) -> None:
        raws = [b"", b"one", b"two" * 1000, bytes(range(256)) * 4096]
        digests = put(store, *raws)
        assert [store.get(digest) for digest in digests] == raws
        assert dict(store.get_many(digests)) == dict(zip(digests, raws, strict=True))

    def test_what_is_not_there_is_missing(self, store: ChunkStore) -> None:
        (there,) = put(store, b"there")
        nowhere = digest_of(b"nowhere")
        assert store.missing([there, nowhere]) == {nowhere}
        assert store.missing([]) == set()
        with pytest.raises(MissingChunk, match=r"chunk"):
            store.get(nowhere)
        with pytest.raises(MissingChunk):
            dict(store.get_many([there, nowhere]))

    def test_a_session_knows_what_it_has_put_before_it_is_flushed(self, store: ChunkStore) -> None:
        with store.writer() as writer:
            writer.put([chunk(b"early")])
            assert writer.missing([digest_of(b"early"), digest_of(b"late")]) == {digest_of(b"late")}

    def test_a_session_that_is_left_without_flush_harms_nothing(self, store: ChunkStore) -> None:
        with store.writer() as writer:
            writer.put([chunk(b"given up")])
        put(store, b"kept")
        assert store.get(digest_of(b"kept")) == b"kept"

    def test_the_same_chunk_put_again_takes_no_room(self, store: ChunkStore) -> None:
        put(store, b"same" * 100)
        before = store.stats()
        with store.writer() as writer:
            if new := writer.missing([digest_of(b"same" * 100)]):
                raise AssertionError(new)
            writer.flush()
            assert writer.stored_bytes == 0
        assert store.stats() == before
        assert before.chunks == 1

    def test_more_than_one_answer_or_read_can_hold_comes_back_whole(self, store: ChunkStore) -> None:
        raws = [
            number.to_bytes(4, "big") + bytes([number % 251]) * 3 + number.to_bytes(2, "big") * 500
            for number in range(3000)
        ]
        raws += [number.to_bytes(4, "big") + random_bytes(number, CHUNK_BYTES - 4) for number in range(12)]
        digests = put(store, *raws)
        assert sum(len(raw) for _, raw in store.get_many(digests)) == sum(map(len, raws))

    def test_threads_may_share_a_session_and_a_store(self, store: ChunkStore) -> None:
        failures: list[SnapshotError] = []

        def work(number: int) -> None:
            try:
                for index in range(40):
                    writer.put([chunk(f"{number}/{index}".encode() * 50), chunk(b"shared" * index)])
            except SnapshotError as error:
                failures.append(error)

        with store.writer() as writer:
            threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join(30)
            writer.flush()
        assert not failures
        assert not store.missing({digest_of(f"{n}/{i}".encode() * 50) for n in range(4) for i in range(40)})

    def test_a_commit_is_refused_after_a_generation_that_is_not_the_stores(self, store: ChunkStore) -> None:
        (root,) = put(store, b"root")
        assert store.commit(root, store.generation())
        assert not store.commit(root, "0" * 32)

    def test_a_snapshot_goes_in_and_comes_out(self, store: ChunkStore, tmp_path: Path) -> None:
        source = tmp_path / "source"
        source.mkdir()
        everything(source)
        cache = StatCache()
        first = capture({"workspace": source}, store, cache=cache)
        write(source, {"a.txt": "changed\n"})
        second = capture({"workspace": source}, store, cache=cache, parent=first.digest)
        assert (second.added, second.changed, second.removed) == (0, 2, 0)  # a.txt has a second name
        assert verify(second.digest, store).ok
        assert is_whole(store, first.digest)
        restore(second.digest, tmp_path / "out", store)
        assert seen(tmp_path / "out/workspace") == seen(source)


def random_bytes(seed: int, count: int) -> bytes:
    return bytes(bytearray((seed * 31 + at * at) & 0xFF for at in range(251))) * (count // 251) + b"x" * (count % 251)


def forged(raw: bytes) -> Chunk:
    return Chunk(digest_of(b"something else"), RAW, len(raw), raw)
