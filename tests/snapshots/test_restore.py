import os
import shutil
import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from snapshots.capture import Limits, capture
from snapshots.chunks import digest_of, encode
from snapshots.directory import DirectoryChunkStore
from snapshots.errors import (
    Corrupt,
    HostileManifest,
    LimitExceeded,
    MissingChunk,
    NotEmpty,
    NotFound,
    Refused,
    SnapshotError,
)
from snapshots.export import export
from snapshots.restore import restore
from snapshots.trees import (
    DIRECTORY,
    ENTRY,
    FILE,
    LEAF_MAGIC,
    LINK,
    Entry,
    Manifest,
    Root,
    decode_manifest,
    decode_tree,
    encode_tree,
)
from snapshots.verify import verify, verify_restored
from tests.snapshots.trees_of_files import everything, many, seen, write

CONTENT = digest_of(b"content")


def forge(store: DirectoryChunkStore, *trees: list[Entry]) -> str:
    """Put trees that nobody would capture, the last as the workspace."""
    chunks = [chunk for tree in trees for chunk in encode_tree(tree)] + [b"content"]
    tree = digest_of(encode_tree(trees[-1])[-1])
    manifest = Manifest((Root("workspace", 0o755, 0, tree, 1, 7),)).encode()
    with store.writer() as writer:
        writer.put([encode(digest_of(raw), raw) for raw in [*chunks, manifest]])
        writer.flush()
    return digest_of(manifest).hex()


def file(name: bytes, body: bytes = CONTENT, size: int = 7) -> Entry:
    return Entry(FILE, 0o644, 0, size, 1, name, body)


@pytest.mark.parametrize(
    "entries",
    [
        [file(b"../escape")],
        [file(b"..")],
        [file(b".")],
        [file(b"")],
        [file(b"/etc/escape")],
        [file(b"a/b")],
        [file(b"nul\0")],
        [file(b"n" * 256)],
        [file(b"b"), file(b"a")],
        [file(b"same"), file(b"same")],
        [Entry(LINK, 0o777, 0, 0, 1, b"up", b"/tmp"), file(b"up")],
        [Entry(LINK, 0o777, 0, 0, 1, b"nul", b"a\0b")],
        [Entry(LINK, 0o777, 0, 0, 1, b"empty", b"")],
        [Entry(b"c", 0o644, 0, 0, 1, b"device", b"")],
        [Entry(b"b", 0o644, 0, 0, 1, b"device", b"\1\2")],
        [Entry(FILE, 0o4755, 0, 7, 1, b"setuid", CONTENT)],
        [file(b"short", b"x" * 31)],
        [file(b"too-many-chunks", CONTENT * 2)],
        [Entry(DIRECTORY, 0o755, 0, 0, 0, b"no-tree", b"")],
    ],
)
def test_a_hostile_tree_is_refused_and_nothing_is_left(
    store: DirectoryChunkStore, tmp_path: Path, entries: list[Entry]
) -> None:
    digest = forge(store, entries)
    with pytest.raises(HostileManifest):
        restore(digest, tmp_path / "out", store)
    assert not list((tmp_path / "out/workspace").iterdir())
    assert not (tmp_path / "escape").exists()
    assert not verify(digest, store).ok


def test_a_file_that_lies_about_its_size_is_refused(store: DirectoryChunkStore, tmp_path: Path) -> None:
    with pytest.raises(HostileManifest, match="hold 7 bytes, the tree says 8"):
        restore(forge(store, [file(b"liar", size=8)]), tmp_path / "out", store)


def test_trees_within_trees_within_trees_stop_at_the_limit(store: DirectoryChunkStore, tmp_path: Path) -> None:
    trees = [[file(b"f")]]
    for _ in range(12):
        below = digest_of(encode_tree(trees[-1])[-1])
        trees.append([Entry(DIRECTORY, 0o755, 0, 0, 0, b"%d" % number, below) for number in range(10)])
    digest = forge(store, *trees)
    with pytest.raises(LimitExceeded, match="files_max = 500"):
        restore(digest, tmp_path / "out", store, limits=Limits(files_max=500))
    assert verify(digest, store).ok, "verifying costs what is stored, not what it unfolds to"


def test_a_manifest_that_is_not_canonical_is_refused() -> None:
    good = Manifest((Root("home", 0o755, 0, CONTENT, 0, 0), Root("workspace", 0o755, 5, CONTENT, 1, 7))).encode()
    assert decode_manifest(good).encode() == good
    for bad in (b"", b"{}", b"[]", b"null", b"[" * 60_000, good + b" ", good.replace(b'"home"', b'"../x"')):
        with pytest.raises(HostileManifest):
            decode_manifest(bad)
    for old, new in ((b'"home"', b'"zzz"'), (b'"home"', b'"workspace"'), (b"493", b"4095"), (b"493", b"true")):
        with pytest.raises(HostileManifest):
            decode_manifest(good.replace(old, new))


names = st.binary(min_size=1, max_size=12)
entry = st.builds(
    Entry,
    st.sampled_from([FILE, DIRECTORY, LINK, b"c", b"\0"]),
    st.integers(0, 0xFFFF),
    st.integers(-(1 << 63), (1 << 63) - 1),
    st.integers(0, 1 << 64 - 1) | st.integers(0, 40),
    st.integers(0, 3),
    st.sampled_from([b"..", b".", b"", b"a/b", b"\0"]) | names,
    st.sampled_from([CONTENT, b"", b"/etc", b"../.."]) | st.binary(max_size=80),
)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(entries=st.lists(entry, max_size=6))
def test_no_tree_writes_outside_of_its_target_or_fails_in_another_way(
    store: DirectoryChunkStore, tmp_path: Path, entries: list[Entry]
) -> None:
    arena = tmp_path / "arena"
    shutil.rmtree(arena, ignore_errors=True)
    arena.mkdir()
    try:
        restore(forge(store, entries), arena / "out", store)
    except SnapshotError:
        assert not list((arena / "out/workspace").iterdir())
    else:
        assert {os.fsdecode(found.name) for found in entries} == {
            path.name for path in (arena / "out/workspace").iterdir()
        }
    assert [path.name for path in arena.iterdir()] == ["out"]
    assert [path.name for path in (arena / "out").iterdir()] == ["workspace"]


@settings(max_examples=300, deadline=None)
@given(
    raw=st.binary(max_size=200),
    cut=st.integers(0, 200),
    flips=st.lists(st.tuples(st.integers(0, 500), st.integers(0, 255))),
)
def test_damaged_bytes_are_refused_and_never_misread(raw: bytes, cut: int, flips: list[tuple[int, int]]) -> None:
    good = bytearray(encode_tree([file(b"a"), Entry(LINK, 0o777, 1, 0, 1, b"b", b"a"), file(b"c", b"", 0)])[-1])
    for at, value in flips:
        good[at % len(good)] = value
    for candidate in (bytes(good[:cut]), bytes(good), LEAF_MAGIC + raw, raw):
        try:
            entries = decode_tree(candidate)
        except HostileManifest:
            continue
        assert encode_tree(entries)[-1] == candidate
        assert all(b"/" not in found.name and found.name not in {b"", b".", b".."} for found in entries)
    assert ENTRY.size == 33


def test_a_directory_with_something_in_it_is_left_alone(
    store: DirectoryChunkStore, source: Path, tmp_path: Path
) -> None:
    write(source, {"file": "new"})
    digest = capture({"workspace": source}, store).digest
    write(tmp_path, {"out/workspace/mine": "precious"})
    with pytest.raises(NotEmpty, match="holds 'mine'"):
        restore(digest, tmp_path / "out", store)
    assert (tmp_path / "out/workspace/mine").read_text() == "precious"


def test_a_target_that_is_a_link_or_a_file_is_refused(store: DirectoryChunkStore, source: Path, tmp_path: Path) -> None:
    digest = capture({"workspace": source}, store).digest
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "link").symlink_to("elsewhere")
    (tmp_path / "file").touch()
    for target in ("link", "file"):
        with pytest.raises(Refused):
            restore(digest, {"workspace": tmp_path / target}, store)
    assert not list((tmp_path / "elsewhere").iterdir())


def test_a_missing_chunk_fails_the_restore_and_leaves_nothing(
    store: DirectoryChunkStore, source: Path, tmp_path: Path
) -> None:
    many(source, 50)
    (source / "d1").chmod(0o500)
    digest = capture({"workspace": source}, store).digest
    lost = digest_of(next(path for path in source.rglob("*.txt")).read_bytes())
    with store.index.transaction():
        store.index._db.execute("DELETE FROM chunks WHERE digest = ?", (lost,))  # pyright: ignore[reportPrivateUsage] (no public way to harm it)
    with pytest.raises(MissingChunk):
        restore(digest, tmp_path / "out", store)
    assert not list((tmp_path / "out/workspace").iterdir())
    assert lost.hex() in verify(digest, store).problems[0]
    with pytest.raises(Corrupt):
        restore("0" * 64, tmp_path / "nothing", store)


def test_each_root_goes_where_it_is_wanted(store: DirectoryChunkStore, source: Path, tmp_path: Path) -> None:
    write(source, {"w/file": "1", "h/file": "2"})
    digest = capture({"workspace": source / "w", "home": source / "h"}, store).digest
    restore(digest, {"home": tmp_path / "there"}, store)
    assert (tmp_path / "there/file").read_text() == "2"
    export(digest, tmp_path / "exported", store)
    assert seen(tmp_path / "exported") == seen(source / "w")
    with pytest.raises(NotFound, match=r"\['home', 'workspace'\]"):
        restore(digest, {"etc": tmp_path / "etc"}, store)


def test_what_was_restored_differently_is_named(store: DirectoryChunkStore, source: Path, tmp_path: Path) -> None:
    everything(source)
    digest = capture({"workspace": source}, store).digest
    restore(digest, tmp_path / "out", store)
    out = tmp_path / "out/workspace"
    stamp = (out / "empty").stat().st_mtime_ns
    (out / "empty").write_text("not any more")
    os.utime(out / "empty", ns=(stamp, stamp))
    (out / "a.txt").chmod(0o600)
    (out / "link").unlink()
    problems = "\n".join(verify_restored(digest, {"workspace": out}, store).problems)
    assert "workspace/empty: differs in size" in problems
    assert "workspace/a.txt: differs in mode" in problems
    assert "workspace/link: is missing" in problems
    assert "big.bin" not in problems


def test_restoring_small_files_costs_at_most_six_times_the_cpu_of_writing_them_plainly(
    store: DirectoryChunkStore, source: Path, tmp_path: Path
) -> None:
    many(source, 1000)
    digest = capture({"workspace": source}, store).digest
    ours: list[float] = []
    plain: list[float] = []
    for attempt in range(4):
        started = time.process_time()
        restore(digest, tmp_path / f"out{attempt}", store)
        ours.append(time.process_time() - started)
        started = time.process_time()
        shutil.copytree(source, tmp_path / f"plain{attempt}")
        plain.append(time.process_time() - started)
    assert min(ours) < 6 * min(plain), (ours, plain)


def test_a_hole_costs_no_more_disk_when_it_is_restored(
    store: DirectoryChunkStore, source: Path, tmp_path: Path
) -> None:
    """A workspace counts by the blocks it takes: restored elsewhere it must not take a thousand times as many."""
    with (source / "holes").open("wb") as file:
        for at in range(0, 64 << 20, 1 << 20):
            file.seek(at + 500_000)
            file.write(b"x")
        file.truncate(65 << 20)
    with (source / "small").open("wb") as file:
        file.truncate(900_000)
    snapshot = capture({"workspace": source}, store)
    restore(snapshot.digest, tmp_path / "out", store)
    for name in ("holes", "small"):
        there, here = (source / name).stat(), (tmp_path / "out/workspace" / name).stat()
        assert here.st_blocks <= there.st_blocks + 8
        assert (tmp_path / "out/workspace" / name).read_bytes() == (source / name).read_bytes()
