import io
import os
import tarfile
import time
from pathlib import Path

import pytest

from snapshots.capture import capture
from snapshots.diff import diff, unified
from snapshots.directory import DirectoryChunkStore
from snapshots.errors import LimitExceeded, NotFound
from snapshots.export import export_tar, listing, read_file
from tests.snapshots.trees_of_files import everything, many, seen, write


def test_a_diff_says_what_a_user_would_say(store: DirectoryChunkStore, source: Path) -> None:
    write(
        source, {"a.py": "one\ntwo\nthree\n", "gone/x": "x\n", "mode": "m", "bin": b"\0\1", "kind": "k", "same/s": "s"}
    )
    before = capture({"workspace": source}, store)
    write(source, {"a.py": "one\n2\nthree", "new/deep/y": "y\n", "bin": b"\0\2"})
    (source / "gone/x").unlink()
    (source / "gone").rmdir()
    (source / "mode").chmod(0o755)
    (source / "kind").unlink()
    (source / "kind").symlink_to("a.py")
    os.utime(source / "same/s", (5, 5))
    after = capture({"workspace": source}, store)
    found = diff(before.digest, after.digest, store)
    assert [(c.path.removeprefix("workspace/"), c.change, c.note) for c in found.changes] == [
        ("a.py", "changed", ""),
        ("bin", "changed", "binary"),
        ("gone", "removed", ""),
        ("gone/x", "removed", ""),
        ("kind", "changed", "kind"),
        ("mode", "changed", "mode"),
        ("new", "added", ""),
        ("new/deep", "added", ""),
        ("new/deep/y", "added", ""),
    ]
    assert found.changes[0].text == (
        "--- a/workspace/a.py\n+++ b/workspace/a.py\n@@ -1,3 +1,3 @@\n one\n-two\n-three\n+2\n+three\n"
        "\\ No newline at end of file\n"
    )
    assert found.changes[3].text.startswith("--- a/workspace/gone/x\n+++ /dev/null\n")
    assert found.changes[4].after is not None
    assert found.changes[4].after.target == "a.py"
    assert not found.truncated
    assert diff(after.digest, after.digest, store).changes == ()


def test_a_diff_is_bounded_in_changes_text_and_time(store: DirectoryChunkStore, source: Path) -> None:
    write(source, {"large": "x\n" * 400_000, "nasty": "ab\nba\n" * 20_000})
    before = capture({"workspace": source}, store)
    many(source, 300)
    write(source, {"large": "y\n" * 400_000, "nasty": "ba\nab\nxx\n" * 15_000})
    for number in range(4):
        write(source, {f"wide{number}": "0123456789\n" * 40_000})
    after = capture({"workspace": source}, store)
    started = time.monotonic()
    found = diff(before.digest, after.digest, store)
    assert time.monotonic() - started < 10
    notes = {change.path: change.note for change in found.changes}
    assert notes["workspace/large"] == "too large"
    assert sum(len(change.text) for change in found.changes) <= 1 << 20
    assert "left out (limit)" in notes.values()
    assert diff(before.digest, after.digest, store, changes_max=10).truncated


def test_texts_that_differ_too_widely_are_shown_as_replaced() -> None:
    old = ["same\n", *(f"a{number}\n" for number in range(3000)), "end\n"]
    new = ["same\n", *(f"b{number}\n" for number in range(3000)), "end\n"]
    text = unified(old, new, "a", "b")
    assert text.startswith("--- a\n+++ b\n@@ -2,3000 +2,3000 @@\n-a0\n")
    assert text.endswith("+b2999\n")


def test_one_file_can_be_read_and_one_directory_listed(store: DirectoryChunkStore, source: Path) -> None:
    everything(source)
    digest = capture({"workspace": source}, store).digest
    assert read_file(digest, "workspace/a.txt", store) == b"hello\n"
    assert read_file(digest, "workspace/big.bin", store) == (source / "big.bin").read_bytes()
    assert [entry.name for entry in listing(digest, "workspace/deep", store)] == [b"er", b"up"]
    with pytest.raises(LimitExceeded, match="size_bytes_max = 5"):
        read_file(digest, "workspace/a.txt", store, size_bytes_max=5)
    for path in ("workspace/none", "workspace/a.txt/x", "workspace/link/x", "", "home", "workspace/../etc"):
        with pytest.raises(NotFound):
            read_file(digest, path, store)
    with pytest.raises(NotFound, match="no regular file"):
        read_file(digest, "workspace/link", store)
    with pytest.raises(NotFound, match="no directory"):
        listing(digest, "workspace/a.txt", store)


def test_a_tar_unpacked_by_others_is_the_directory(store: DirectoryChunkStore, source: Path, tmp_path: Path) -> None:
    everything(source)
    (source / "dangling").unlink()  # tarfile's own filter refuses its absolute target, as it should
    digest = capture({"workspace": source}, store).digest
    buffer = io.BytesIO()
    export_tar(digest, buffer, store)
    buffer.seek(0)
    with tarfile.open(fileobj=buffer) as tar:
        tar.extractall(tmp_path / "out", filter="tar")
    wanted, found = seen(source), seen(tmp_path / "out/workspace")
    assert {path: (mode, content) for path, (mode, _, content) in found.items()} == {
        path: (mode & ~0o022, content) if mode & 0o170000 != 0o120000 else (mode, content)
        for path, (mode, _, content) in wanted.items()
    }
    assert all(abs(found[path][1] - wanted[path][1]) < 1000 for path in found if path not in {b"deep/up", b"link"})
