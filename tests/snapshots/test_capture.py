import os
import socket
import threading
import time
from pathlib import Path

import pytest

from snapshots.capture import Limits, capture
from snapshots.chunks import CHUNK_BYTES
from snapshots.directory import DirectoryChunkStore
from snapshots.errors import DeadlineExceeded, LimitExceeded, Refused
from snapshots.export import listing, read_file
from snapshots.reader import Content, Ingest, read_stable
from snapshots.restore import restore
from snapshots.statcache import StatCache
from snapshots.verify import verify, verify_restored
from snapshots.workspace import DirectoryWorkspace
from tests.snapshots.trees_of_files import everything, many, seen, write


def test_everything_a_workspace_can_hold_comes_back_as_it_was(
    store: DirectoryChunkStore, source: Path, tmp_path: Path
) -> None:
    everything(source)
    home = tmp_path / "agent-home"
    write(home, {"conversation.jsonl": '{"role": "user"}\n'})
    snapshot = capture({"workspace": source, "home": home}, store)
    restore(snapshot.digest, tmp_path / "out", store)
    assert seen(tmp_path / "out/workspace") == seen(source)
    assert seen(tmp_path / "out/home") == seen(home)
    assert snapshot.file_count == 14
    assert snapshot.skipped == ()
    assert verify(snapshot.digest, store).ok
    assert verify_restored(snapshot.digest, {"workspace": source, "home": home}, store).ok


def test_the_same_directory_gives_the_same_digest_whoever_captures_it(
    store: DirectoryChunkStore, source: Path, tmp_path: Path
) -> None:
    everything(source)
    with DirectoryChunkStore(tmp_path / "other") as other:
        assert capture({"w": source}, store).digest == capture({"w": source}, other).digest


def test_an_unchanged_tree_is_not_read_again_and_stores_nothing(store: DirectoryChunkStore, source: Path) -> None:
    many(source, 300)
    cache = StatCache()
    first = capture({"workspace": source}, store, cache=cache)
    packs = store.stats().packs
    second = capture({"workspace": source}, store, cache=cache, parent=first.digest)
    assert (second.digest, second.captured_bytes, second.stored_bytes) == (first.digest, 0, 0)
    assert (second.added, second.changed, second.removed) == (0, 0, 0)
    assert store.stats().packs == packs


def test_only_what_changed_is_read_and_counted(store: DirectoryChunkStore, source: Path) -> None:
    many(source, 700)
    write(source, {f"flat/{index}": f"{index}" for index in range(700)})
    cache = StatCache()
    first = capture({"workspace": source}, store, cache=cache)
    write(source, {"flat/3": "changed", "d1/new/file": "new"})
    (source / "flat/4").unlink()
    (source / "flat/5").chmod(0o600)
    second = capture({"workspace": source}, store, cache=cache, parent=first.digest)
    assert (second.added, second.changed, second.removed) == (1, 2, 1)
    assert second.captured_bytes == len("changed") + len("new") + len("5")
    assert second.digest == capture({"workspace": source}, store).digest, "the same as reading everything"


def test_a_change_that_keeps_size_and_mtime_is_seen(store: DirectoryChunkStore, source: Path) -> None:
    write(source, {"file": "aaaa"})
    stamp = (source / "file").stat().st_mtime_ns
    cache = StatCache()
    for content in ("bbbb", "cccc", "dddd"):
        capture({"workspace": source}, store, cache=cache)
        (source / "file").write_text(content)
        os.utime(source / "file", ns=(stamp, stamp))
        snapshot = capture({"workspace": source}, store, cache=cache)
        assert read_file(snapshot.digest, "workspace/file", store) == content.encode()


def test_a_write_right_after_a_capture_is_never_overlooked(store: DirectoryChunkStore, source: Path) -> None:
    write(source, {"file": "000000"})
    cache = StatCache()
    for number in range(60):
        content = f"{number:06}"
        (source / "file").write_text(content)
        snapshot = capture({"workspace": source}, store, cache=cache)
        assert read_file(snapshot.digest, "workspace/file", store) == content.encode()


def test_the_first_capture_after_a_restore_reads_nothing(
    store: DirectoryChunkStore, source: Path, tmp_path: Path
) -> None:
    everything(source)
    many(source, 300)
    snapshot = capture({"workspace": source}, store)
    workspace = DirectoryWorkspace({"workspace": tmp_path / "out"}, store)
    workspace.materialise(snapshot.digest)
    again = workspace.capture(deadline_s=30)
    assert again.digest == snapshot.digest
    assert again.captured_bytes < snapshot.captured_bytes / 2, "only what was written in the last clock tick"
    assert again.stored_bytes == 0
    write(tmp_path / "out", {"new": "new"})
    assert workspace.capture(deadline_s=30).added == 1


def test_a_saved_cache_serves_the_next_process(store: DirectoryChunkStore, source: Path, tmp_path: Path) -> None:
    many(source, 100)
    cache = StatCache()
    first = capture({"workspace": source}, store, cache=cache)
    cache.save(tmp_path / "cache")
    loaded = StatCache.load(tmp_path / "cache")
    assert loaded.directories == cache.directories
    assert capture({"workspace": source}, store, cache=loaded).captured_bytes == 0
    raw = bytearray((tmp_path / "cache").read_bytes())
    raw[len(raw) // 2] ^= 1
    (tmp_path / "cache").write_bytes(raw)
    assert not StatCache.load(tmp_path / "cache").directories
    assert not StatCache.load(tmp_path / "nothing").directories
    assert capture({"workspace": source}, store, cache=StatCache()).digest == first.digest


def test_a_cache_of_another_store_is_not_believed(store: DirectoryChunkStore, source: Path, tmp_path: Path) -> None:
    write(source, {"file": "content"})
    cache = StatCache()
    capture({"workspace": source}, store, cache=cache)
    with DirectoryChunkStore(tmp_path / "other") as other:
        snapshot = capture({"workspace": source}, other, cache=cache)
        assert verify(snapshot.digest, other).ok


def test_sockets_and_fifos_are_left_out_and_said_so_every_time(store: DirectoryChunkStore, source: Path) -> None:
    os.mkfifo(source / "pipe")
    write(source, {"run/pid": "1"})
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(source / "run/app.sock"))
        cache = StatCache()
        first = capture({"workspace": source}, store, cache=cache)
        snapshot = capture({"workspace": source}, store, cache=cache)
    assert sorted(first.skipped) == ["workspace/pipe: fifo", "workspace/run/app.sock: socket"]
    assert sorted(snapshot.skipped) == sorted(first.skipped)
    assert [entry.name for entry in listing(snapshot.digest, "workspace/run", store)] == [b"pid"]


def test_what_is_skipped_is_a_bounded_list(store: DirectoryChunkStore, source: Path) -> None:
    for number in range(50):
        os.mkfifo(source / f"pipe{number}")
    skipped = capture({"workspace": source}, store).skipped
    assert len(skipped) == 32
    assert skipped[-1] == "and 19 more"


def test_excluded_paths_and_names_are_left_out(store: DirectoryChunkStore, source: Path) -> None:
    write(source, {"keep": "1", "a/cache/x": "2", "b/cache/y": "3", "a/node": "4"})
    snapshot = capture({"workspace": source}, store, exclude=["cache", "workspace/a/node"])
    assert snapshot.file_count == 1


def test_a_file_that_changes_while_it_is_read_is_read_again(store: DirectoryChunkStore, source: Path) -> None:
    write(source, {"log": "one"})

    def grow_once(attempt: int) -> None:
        if attempt == 0:
            (source / "log").write_text("one two")

    fd = os.open(source, os.O_RDONLY)
    with store.writer() as writer:
        found = read_stable(b"log", fd, Ingest(writer, 1), grow_once)
    assert isinstance(found, Content)
    assert found.status.st_size == len("one two")
    os.close(fd)


@pytest.mark.parametrize("size", [10, CHUNK_BYTES * 2 + 5])
def test_a_file_that_never_stands_still_is_reported_and_not_recorded(
    store: DirectoryChunkStore, source: Path, size: int
) -> None:
    write(source, {"log": "x" * size})

    def rewrite(attempt: int) -> None:
        (source / "log").write_text("y" * (size + attempt))

    fd = os.open(source, os.O_RDONLY)
    with store.writer() as writer:
        found = read_stable(b"log", fd, Ingest(writer, 1), rewrite)
    assert found == "changed while read (3 attempts)"
    os.close(fd)


def test_a_file_swapped_for_a_link_is_not_followed(store: DirectoryChunkStore, source: Path) -> None:
    (source / "swapped").symlink_to("/etc/passwd")
    os.mkfifo(source / "pipe")
    fd = os.open(source, os.O_RDONLY)
    with store.writer() as writer:
        ingest = Ingest(writer, 1)
        assert read_stable(b"swapped", fd, ingest) == "changed its type while captured"
        assert read_stable(b"pipe", fd, ingest) == "changed its type while captured"
        assert read_stable(b"vanished", fd, ingest) is None
        assert not ingest.pending
    os.close(fd)


def test_a_tree_that_is_rewritten_meanwhile_gives_whole_files_only(store: DirectoryChunkStore, source: Path) -> None:
    stop = threading.Event()
    sizes = [10, 5000, CHUNK_BYTES + 1]

    def churn() -> None:
        number = 0
        while not stop.is_set():
            number += 1
            name, letter = source / f"f{number % 17}", bytes([97 + number % 26])
            match number % 5:
                case 0:
                    name.unlink(missing_ok=True)
                case 1:
                    (source / f"dir{number % 7}").mkdir(exist_ok=True)
                    write(source, {f"dir{number % 7}/x": letter * 100})
                case 2:
                    if (source / f"dir{number % 7}").exists():
                        (source / f"dir{number % 7}").rename(source / f"moved{number}")
                case _:
                    temporary = source / "temporary"
                    temporary.write_bytes(letter * sizes[number % 3])
                    temporary.rename(name)

    thread = threading.Thread(target=churn)
    thread.start()
    cache = StatCache()
    try:
        for _ in range(15):
            snapshot = capture({"workspace": source}, store, cache=cache)
            assert verify(snapshot.digest, store).ok
            for entry in listing(snapshot.digest, "workspace", store):
                if entry.name.startswith(b"f"):
                    content = read_file(snapshot.digest, f"workspace/{entry.name.decode()}", store)
                    assert len(set(content)) == 1
                    assert len(content) in sizes
    finally:
        stop.set()
        thread.join(20)
    assert capture({"workspace": source}, store, cache=cache).digest == capture({"workspace": source}, store).digest


def test_too_many_files_are_refused_by_the_name_of_the_limit(store: DirectoryChunkStore, source: Path) -> None:
    many(source, 50)
    with pytest.raises(LimitExceeded, match="files_max = 49"):
        capture({"workspace": source}, store, limits=Limits(files_max=49))
    capture({"workspace": source}, store, limits=Limits(files_max=50))


def test_a_sparse_terabyte_is_refused_before_it_is_read(store: DirectoryChunkStore, source: Path) -> None:
    with (source / "sparse").open("wb") as file:
        file.truncate(1 << 40)
    started = time.monotonic()
    with pytest.raises(LimitExceeded, match=f"{1 << 40} bytes are more than size_bytes_max"):
        capture({"workspace": source}, store)
    assert time.monotonic() - started < 1


def test_a_tree_too_deep_is_refused(store: DirectoryChunkStore, source: Path) -> None:
    (source / "/".join("d" * 300)).mkdir(parents=True)
    with pytest.raises(LimitExceeded, match="depth_max = 256"):
        capture({"workspace": source}, store)


def test_a_deadline_that_has_passed_leaves_store_and_cache_as_they_were(
    store: DirectoryChunkStore, source: Path
) -> None:
    many(source, 50)
    cache = StatCache()
    with pytest.raises(DeadlineExceeded):
        capture({"workspace": source}, store, deadline_s=-1, cache=cache)
    assert not cache.directories
    assert store.stats().chunks == 0
    assert not list((store.path / "tmp").iterdir())


def test_a_root_that_is_not_there_is_refused(store: DirectoryChunkStore, source: Path) -> None:
    with pytest.raises(Refused, match="No such file"):
        capture({"workspace": source / "nowhere"}, store)
    with pytest.raises(Refused, match="cannot be a root's name"):
        capture({"../x": source}, store)


def test_one_directory_of_twenty_thousand_files_is_cut_into_parts_that_a_change_leaves_alone(
    store: DirectoryChunkStore, source: Path, tmp_path: Path
) -> None:
    for number in range(20_000):
        os.close(os.open(source / f"file-{number}", os.O_CREAT | os.O_WRONLY))
    cache = StatCache()
    first = capture({"workspace": source}, store, cache=cache)
    assert first.file_count == 20_000
    (source / "file-0000").touch()
    second = capture({"workspace": source}, store, cache=cache, parent=first.digest)
    assert second.added == 1
    assert second.stored_bytes < first.stored_bytes / 2
    restore(second.digest, tmp_path / "out", store)
    assert verify_restored(second.digest, {"workspace": tmp_path / "out/workspace"}, store).ok


def test_one_file_that_takes_longer_than_the_deadline_is_not_read_to_its_end(
    store: DirectoryChunkStore, source: Path
) -> None:
    with (source / "vast").open("wb") as file:
        file.truncate(60 << 30)
    started = time.monotonic()
    with pytest.raises(DeadlineExceeded):
        capture({"workspace": source}, store, deadline_s=0.3)
    assert time.monotonic() - started < 5
