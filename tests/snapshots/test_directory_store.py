import os
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from snapshots.chunks import digest_of
from snapshots.directory import DirectoryChunkStore
from snapshots.errors import Corrupt, MissingChunk, Refused
from snapshots.packs import MAGIC
from snapshots.verify import verify
from tests.snapshots.store_contract import ChunkStoreContract, put


class TestDirectoryChunkStore(ChunkStoreContract):
    @pytest.fixture
    def store(self, tmp_path: Path) -> Iterator[DirectoryChunkStore]:
        with DirectoryChunkStore(tmp_path / "store") as store:
            yield store


def only_pack(store: DirectoryChunkStore) -> Path:
    (pack,) = store.packs_path.iterdir()
    return pack


def test_a_lost_index_is_rebuilt_from_the_packs(tmp_path: Path) -> None:
    with DirectoryChunkStore(tmp_path) as store:
        put(store, b"one", b"two" * 999)
        generation = store.generation()
    for name in tmp_path.glob("index.sqlite*"):
        name.unlink()
    with DirectoryChunkStore(tmp_path) as store:
        assert store.get(digest_of(b"two" * 999)) == b"two" * 999
        assert store.generation() != generation, "what was removed meanwhile is unknown, caches must ask again"


def test_an_index_that_is_garbage_is_replaced(tmp_path: Path) -> None:
    with DirectoryChunkStore(tmp_path) as store:
        put(store, b"one")
    for name in tmp_path.glob("index.sqlite-*"):
        name.unlink()
    (tmp_path / "index.sqlite").write_bytes(b"garbage" * 1000)
    with DirectoryChunkStore(tmp_path) as store:
        assert store.get(digest_of(b"one")) == b"one"


def test_an_index_that_lost_its_tail_in_a_power_cut_finds_the_pack_when_it_is_missed(tmp_path: Path) -> None:
    with DirectoryChunkStore(tmp_path) as store:
        put(store, b"one")
        with store.index.transaction():
            store.index.forget_packs([pack.id for pack in store.index.packs().values()])
        assert store.missing([digest_of(b"one")])
        assert store.get(digest_of(b"one")) == b"one"


def test_after_a_boot_the_index_forgets_packs_that_are_gone(tmp_path: Path) -> None:
    with DirectoryChunkStore(tmp_path) as store:
        put(store, b"one")
        only_pack(store).unlink()
        put(store, b"two")
    with sqlite3.connect(tmp_path / "index.sqlite") as db:
        db.execute("UPDATE facts SET value = 'an earlier boot' WHERE name = 'boot'")
    db.close()
    with DirectoryChunkStore(tmp_path) as store:
        assert store.missing([digest_of(b"one"), digest_of(b"two")]) == {digest_of(b"one")}


def test_a_flipped_bit_is_never_handed_out(tmp_path: Path) -> None:
    with DirectoryChunkStore(tmp_path) as store:
        put(store, os.urandom(1000))
        pack = only_pack(store)
        raw = bytearray(pack.read_bytes())
        raw[-1] ^= 1
        pack.write_bytes(raw)
        (digest,) = (row[0] for row in store.index.chunks_by_pack())
        with pytest.raises(Corrupt, match="does not match its digest"):
            store.get(digest)


def test_a_pack_cut_short_is_corrupt_and_not_a_crash(tmp_path: Path) -> None:
    with DirectoryChunkStore(tmp_path) as store:
        put(store, os.urandom(1000))
        os.truncate(only_pack(store), len(MAGIC) + 500)
        (digest,) = (row[0] for row in store.index.chunks_by_pack())
        with pytest.raises(Corrupt):
            store.get(digest)


def test_a_vanished_pack_is_a_missing_chunk(tmp_path: Path) -> None:
    with DirectoryChunkStore(tmp_path) as store:
        put(store, b"one")
        only_pack(store).unlink()
        with pytest.raises(MissingChunk, match="gone"):
            store.get(digest_of(b"one"))


def test_a_directory_of_another_format_is_refused(tmp_path: Path) -> None:
    (tmp_path / "FORMAT").write_text("autovibe chunk store 99\n")
    with pytest.raises(Refused, match="not a chunk store of this version"):
        DirectoryChunkStore(tmp_path)


def test_opening_a_warm_store_takes_less_than_five_milliseconds(tmp_path: Path) -> None:
    with DirectoryChunkStore(tmp_path) as store:
        for number in range(200):
            put(store, number.to_bytes(4, "big"))
    took: list[float] = []
    for _ in range(10):
        started = time.perf_counter()
        DirectoryChunkStore(tmp_path).close()
        took.append(time.perf_counter() - started)
    assert min(took) < 0.005


WRITE = """
import sys
from pathlib import Path
from snapshots.chunks import digest_of, encode
from snapshots.directory import DirectoryChunkStore
with DirectoryChunkStore(Path(sys.argv[1])) as store:
    for session in range(10):
        raws = [b"%s/%d/%d" % (sys.argv[2].encode(), session, index) * 20 for index in range(20)] + [b"all" * session]
        with store.writer() as writer:
            writer.put([encode(digest_of(raw), raw) for raw in raws])
            writer.flush()
        assert not store.missing([digest_of(raw) for raw in raws])
"""


def test_many_processes_write_the_same_new_store_at_once(tmp_path: Path) -> None:
    running = [subprocess.Popen([sys.executable, "-c", WRITE, str(tmp_path), str(n)]) for n in range(6)]
    assert [process.wait(50) for process in running] == [0] * 6
    with DirectoryChunkStore(tmp_path) as store:
        wanted = [b"%d/%d/%d" % (n, s, i) * 20 for n in range(6) for s in range(10) for i in range(20)]
        assert dict(store.get_many(map(digest_of, wanted))) == {digest_of(raw): raw for raw in wanted}
        assert not list((tmp_path / "tmp").iterdir())


FILL = """
import resource, signal, sys, os
from pathlib import Path
from snapshots.capture import capture
from snapshots.directory import DirectoryChunkStore
from snapshots.errors import StoreFull
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
with DirectoryChunkStore(Path(sys.argv[1])) as store:
    small = capture({"workspace": Path(sys.argv[2]) / "small"}, store)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, resource.RLIM_INFINITY))
    try:
        capture({"workspace": Path(sys.argv[2])}, store)
    except StoreFull as error:
        print(small.digest, error)
    else:
        sys.exit("it fitted")
"""


def test_a_full_disk_fails_the_capture_and_leaves_the_store_as_it_was(tmp_path: Path) -> None:
    source = tmp_path / "source"
    (source / "small").mkdir(parents=True)
    (source / "small/file").write_text("small")
    (source / "big").write_bytes(os.urandom(4 << 20))
    done = subprocess.run(
        [sys.executable, "-c", FILL, str(tmp_path / "store"), str(source)],
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "free space or sweep" in done.stdout
    with DirectoryChunkStore(tmp_path / "store") as store:
        assert verify(done.stdout.split()[0], store).ok
        assert len(list(store.packs_path.iterdir())) == 1
        assert not list((store.path / "tmp").iterdir())
