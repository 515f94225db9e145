import os
import subprocess
import sys
from pathlib import Path

import pytest

from snapshots.capture import capture
from snapshots.chunks import digest_of
from snapshots.directory import DirectoryChunkStore
from snapshots.errors import Corrupt
from snapshots.restore import restore
from snapshots.statcache import StatCache
from snapshots.verify import is_whole, verify
from tests.snapshots.store_contract import chunk, put
from tests.snapshots.trees_of_files import many, seen, write


def age(store: DirectoryChunkStore, seconds: float = 3600) -> None:
    """Make everything in the store that much older."""
    with store.index.transaction():
        store.index._db.execute("UPDATE packs SET created_at = created_at - ?", (seconds,))  # pyright: ignore[reportPrivateUsage] (no public way to harm it)
        store.index._db.execute("UPDATE roots SET committed_at = committed_at - ?", (seconds,))  # pyright: ignore[reportPrivateUsage] (no public way to harm it)


def test_what_no_live_snapshot_needs_goes_and_the_rest_stays(
    store: DirectoryChunkStore, source: Path, tmp_path: Path
) -> None:
    many(source, 200)
    first = capture({"workspace": source}, store)
    write(source, {"d1/e1/f1.txt": os.urandom(100_000)})
    second = capture({"workspace": source}, store)
    write(source, {"d1/e1/f1.txt": os.urandom(100_000)})
    third = capture({"workspace": source}, store)
    age(store)
    report = store.sweep([bytes.fromhex(first.digest), bytes.fromhex(third.digest)], grace_s=60)
    assert report.packs_dropped == 1
    assert report.freed_bytes > 100_000
    assert verify(first.digest, store).ok
    assert verify(third.digest, store).ok
    assert not is_whole(store, second.digest)
    restore(third.digest, tmp_path / "out", store)
    assert seen(tmp_path / "out/workspace") == seen(source)


def test_a_pack_with_little_life_in_it_is_rewritten(store: DirectoryChunkStore, source: Path) -> None:
    write(source, {"keep": os.urandom(1000), "drop": os.urandom(200_000)})
    capture({"workspace": source}, store)
    (source / "drop").unlink()
    kept = capture({"workspace": source}, store)
    age(store)
    before = store.stats()
    report = store.sweep([bytes.fromhex(kept.digest)], grace_s=60)
    assert report.packs_rewritten == 1
    assert store.stats().stored_bytes < before.stored_bytes / 10
    assert verify(kept.digest, store).ok
    assert (store.sweep([bytes.fromhex(kept.digest)], grace_s=0).freed_bytes) == 0
    store.compare_index()
    assert verify(kept.digest, store).ok


def test_packs_younger_than_the_grace_are_never_touched(store: DirectoryChunkStore, source: Path) -> None:
    write(source, {"file": "content"})
    snapshot = capture({"workspace": source}, store)
    put(store, b"of a capture that is still running")
    assert store.sweep([], grace_s=60).packs_dropped == 0
    assert verify(snapshot.digest, store).ok


def test_a_snapshot_just_committed_keeps_old_chunks_it_shares(store: DirectoryChunkStore, source: Path) -> None:
    write(source, {"file": "content"})
    first = capture({"workspace": source}, store)
    age(store)
    again = capture({"workspace": source}, store)
    assert again.digest == first.digest
    assert store.sweep([], grace_s=60).packs_dropped == 0
    assert verify(again.digest, store).ok


def test_a_sweep_without_anything_live_empties_the_store(store: DirectoryChunkStore, source: Path) -> None:
    many(source, 50)
    capture({"workspace": source}, store)
    age(store)
    store.sweep([], grace_s=60)
    assert (store.stats().chunks, store.stats().packs) == (0, 0)
    assert not list(store.packs_path.iterdir())


def test_a_live_snapshot_that_is_not_whole_stops_the_sweep(store: DirectoryChunkStore, source: Path) -> None:
    write(source, {"file": "content"})
    snapshot = capture({"workspace": source}, store)
    age(store)
    with pytest.raises(Corrupt):
        store.sweep([digest_of(b"never stored")], grace_s=60)
    assert verify(snapshot.digest, store).ok


def test_a_cache_from_before_a_sweep_is_checked_and_not_believed(store: DirectoryChunkStore, source: Path) -> None:
    many(source, 50)
    cache = StatCache()
    capture({"workspace": source}, store, cache=cache)
    age(store)
    store.sweep([], grace_s=60)
    again = capture({"workspace": source}, store, cache=cache)
    assert verify(again.digest, store).ok
    assert again.captured_bytes == again.size_bytes


def test_a_cache_survives_a_sweep_that_left_its_snapshot_alone(store: DirectoryChunkStore, source: Path) -> None:
    many(source, 50)
    cache = StatCache()
    first = capture({"workspace": source}, store, cache=cache)
    put(store, b"garbage")
    age(store)
    assert store.sweep([bytes.fromhex(first.digest)], grace_s=60).packs_dropped == 1
    assert capture({"workspace": source}, store, cache=cache).captured_bytes == 0


def test_what_killed_writers_left_is_removed_and_what_living_ones_write_is_not(store: DirectoryChunkStore) -> None:
    left = store.path / "tmp" / "left.pack"
    left.write_bytes(b"half")
    os.utime(left, (1, 1))
    with store.writer() as writer:
        writer.put([chunk(b"in progress")])
        for path in (store.path / "tmp").iterdir():
            os.utime(path, (1, 1))
        store.sweep([], grace_s=60)
        assert not left.exists()
        writer.flush()
    assert store.get(digest_of(b"in progress")) == b"in progress"


CHURN = """
import os, sys
from pathlib import Path
from snapshots.capture import capture
from snapshots.directory import DirectoryChunkStore
from snapshots.errors import Transient
from snapshots.statcache import StatCache
from snapshots.verify import verify
source, cache = Path(sys.argv[2]), StatCache()
with DirectoryChunkStore(Path(sys.argv[1])) as store:
    done = 0
    while done < 25:
        (source / f"file{done % 5}").write_text(f"{sys.argv[3]} {done // 7}" * 50)
        try:
            snapshot = capture({"workspace": source}, store, cache=cache)
        except Transient:
            continue
        done += 1
        result = verify(snapshot.digest, store)
        assert result.ok, result
print(snapshot.digest)
"""


def test_sweeping_beside_captures_never_takes_what_they_committed(tmp_path: Path) -> None:
    """The grace is shorter than the captures' pause, and everything old is dead: the worst a sweep can be asked."""
    store_path = tmp_path / "store"
    sources = [tmp_path / f"source{number}" for number in range(2)]
    for source in sources:
        source.mkdir()
        many(source, 20)
    running = [
        subprocess.Popen(
            [sys.executable, "-c", CHURN, str(store_path), str(source), source.name], stdout=subprocess.PIPE
        )
        for source in sources
    ]
    with DirectoryChunkStore(store_path) as store:
        sweeps = 0
        while any(process.poll() is None for process in running):
            store.sweep([], grace_s=2.0)
            sweeps += 1
        assert sweeps > 3
        for process in running:
            out, _ = process.communicate(timeout=10)
            assert process.returncode == 0
            assert is_whole(store, out.decode().strip())


def test_a_root_that_is_no_snapshot_does_not_stop_the_sweep(store: DirectoryChunkStore, source: Path) -> None:
    """Whoever may upload may commit anything: it must not keep everybody's garbage for ever."""
    write(source, {"file": os.urandom(10_000)})
    capture({"workspace": source}, store)
    (source / "file").unlink()
    kept = capture({"workspace": source}, store)
    age(store)
    assert store.commit(b"\1" * 32, store.generation())
    assert store.sweep([bytes.fromhex(kept.digest)], grace_s=60).freed_bytes > 0
    assert verify(kept.digest, store).ok


def test_a_live_snapshot_that_is_damaged_keeps_what_is_left_of_it_and_stops_no_sweep(
    store: DirectoryChunkStore, source: Path
) -> None:
    """One flipped bit must not end all sweeping."""
    write(source, {"below/file": os.urandom(10_000)})
    damaged = capture({"workspace": source}, store)
    (pack,) = store.packs_path.iterdir()
    write(source, {"below/file": os.urandom(10_000)})
    garbage = capture({"workspace": source}, store)
    write(source, {"below/file": os.urandom(10_000)})
    kept = capture({"workspace": source}, store)
    content = bytearray(pack.read_bytes())
    content[-40] ^= 0xFF  # in the manifest or a tree: what stands last in the first pack
    pack.write_bytes(content)
    age(store)
    assert not verify(damaged.digest, store).ok
    report = store.sweep([bytes.fromhex(damaged.digest), bytes.fromhex(kept.digest)], grace_s=60)
    assert report.freed_bytes > 9_000
    assert not store.missing([bytes.fromhex(damaged.digest)]), "what is left of a damaged snapshot is evidence"
    assert verify(kept.digest, store).ok
    assert not is_whole(store, garbage.digest)
