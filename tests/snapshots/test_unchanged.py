"""A look that reads no file tells whether anything changed since the last capture."""

import os
from pathlib import Path

import pytest

from snapshots.capture import capture
from snapshots.directory import DirectoryChunkStore
from snapshots.errors import DeadlineExceeded
from snapshots.statcache import StatCache
from snapshots.unchanged import is_unchanged


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    tree = tmp_path / "tree"
    (tree / "a" / "b").mkdir(parents=True)
    (tree / "a" / "b" / "deep").write_text("1")
    (tree / "top").write_text("2")
    (tree / "link").symlink_to("/etc")
    for path in tree.rglob("*"):
        os.utime(path, ns=(1, 1), follow_symlinks=False)
    return tree


def captured(tree: Path, store: Path) -> StatCache:
    cache = StatCache()
    with DirectoryChunkStore(store) as chunks:
        capture({"workspace": tree}, chunks, cache=cache)
        capture({"workspace": tree}, chunks, cache=cache)  # what was too fresh to be sure of is sure now
    return cache


def test_what_was_captured_is_unchanged_until_anything_in_it_is(tree: Path, tmp_path: Path) -> None:
    cache = captured(tree, tmp_path / "store")
    assert is_unchanged("workspace", tree, cache)
    assert is_unchanged("workspace", tree, cache)
    for change in (
        lambda: (tree / "a" / "b" / "deep").write_text("3"),
        lambda: (tree / "a" / "b" / "deep").chmod(0o600),
        (tree / "a" / "b" / "new").mkdir,
        (tree / "link").unlink,
        lambda: (tree / "top").rename(tree / "other"),
    ):
        cache = captured(tree, tmp_path / "store")
        assert is_unchanged("workspace", tree, cache)
        change()
        assert not is_unchanged("workspace", tree, cache)


def test_what_was_never_captured_or_is_not_there_counts_as_changed(tree: Path, tmp_path: Path) -> None:
    cache = captured(tree, tmp_path / "store")
    assert not is_unchanged("home", tree, cache)
    assert not is_unchanged("workspace", tmp_path / "none", cache)
    assert not is_unchanged("workspace", tree, StatCache())


def test_a_look_ends_at_its_deadline_and_leaves_no_descriptor_open(tree: Path, tmp_path: Path) -> None:
    cache = captured(tree, tmp_path / "store")
    before = len(list(Path("/proc/self/fd").iterdir()))
    with pytest.raises(DeadlineExceeded):
        is_unchanged("workspace", tree, cache, deadline_s=-1)
    assert is_unchanged("workspace", tree, cache)
    assert len(list(Path("/proc/self/fd").iterdir())) == before
