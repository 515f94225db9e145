"""Injected files and the links that a hostile workspace has in their way."""

import os
from pathlib import Path

import pytest

from agent.inject import Escape, put

ME = (os.getuid(), os.getgid())


def test_a_file_is_put_with_its_mode_and_the_directories_it_needs(tmp_path: Path) -> None:
    put(str(tmp_path), "a/b/run.sh", b"echo hi\n", mode=0o755, owner=ME)
    target = tmp_path / "a/b/run.sh"
    assert target.read_bytes() == b"echo hi\n"
    assert target.stat().st_mode & 0o777 == 0o755
    assert sorted(path.name for path in (tmp_path / "a/b").iterdir()) == ["run.sh"]


def test_a_link_in_a_parents_place_is_refused_and_nothing_is_written_behind_it(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    workspace = tmp_path / "workspace"
    workspace.mkdir()
    (workspace / "a").symlink_to(outside)
    with pytest.raises(Escape, match="'a' is a link"):
        put(str(workspace), "a/evil", b"x", mode=0o644, owner=ME)
    with pytest.raises(Escape, match="'a' is a link"):
        put(str(workspace), "a/deep/evil", b"x", mode=0o644, owner=ME)
    assert list(outside.iterdir()) == []


def test_a_link_in_the_files_own_place_is_replaced_and_not_followed(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("mine")
    workspace = tmp_path / "workspace"
    workspace.mkdir()
    (workspace / "config").symlink_to(secret)
    put(str(workspace), "config", b"new", mode=0o600, owner=ME)
    assert secret.read_text() == "mine"
    assert not (workspace / "config").is_symlink()
    assert (workspace / "config").read_text() == "new"


def test_a_hard_link_in_the_files_place_is_replaced_and_its_other_name_keeps_its_content(tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.write_text("mine")
    workspace = tmp_path / "workspace"
    workspace.mkdir()
    (workspace / "config").hardlink_to(other)
    put(str(workspace), "config", b"new", mode=0o644, owner=ME)
    assert other.read_text() == "mine"


def test_a_directory_in_the_files_place_is_refused(tmp_path: Path) -> None:
    (tmp_path / "src").mkdir()
    with pytest.raises(Escape, match="directory of this name"):
        put(str(tmp_path), "src", b"x", mode=0o644, owner=ME)
    (tmp_path / "file").write_text("")
    with pytest.raises(Escape):
        put(str(tmp_path), "file/below", b"x", mode=0o644, owner=ME)
