"""What disk space counts."""

import os
from pathlib import Path

from agent.watch import ENTRY_BYTES_MIN, disk_bytes


def test_empty_files_and_directories_are_not_free(tmp_path: Path) -> None:
    for n in range(10):
        (tmp_path / f"f{n}").touch()
        (tmp_path / f"d{n}").mkdir()
    assert disk_bytes([str(tmp_path)], 10**12) >= 20 * ENTRY_BYTES_MIN


def test_links_are_not_followed(tmp_path: Path) -> None:
    (tmp_path / "up").symlink_to("..")
    (tmp_path / "all").symlink_to("/usr")
    assert disk_bytes([str(tmp_path)], 10**12) == 2 * ENTRY_BYTES_MIN


def test_a_sparse_file_counts_what_it_takes(tmp_path: Path) -> None:
    (tmp_path / "sparse").touch()
    os.truncate(tmp_path / "sparse", 10**12)
    assert disk_bytes([str(tmp_path)], 10**12) < 10**6


def test_counting_stops_soon_after_enough(tmp_path: Path) -> None:
    for n in range(100):
        (tmp_path / f"f{n}").touch()
    assert disk_bytes([str(tmp_path)], 5 * ENTRY_BYTES_MIN) == 6 * ENTRY_BYTES_MIN


def test_what_is_hidden_below_a_path_too_long_to_open_counts_as_too_much(tmp_path: Path) -> None:
    here = os.open(tmp_path, os.O_RDONLY)
    try:
        for _ in range(20):
            os.mkdir("x" * 250, dir_fd=here)
            below = os.open("x" * 250, os.O_RDONLY, dir_fd=here)
            os.close(here)
            here = below
    finally:
        os.close(here)
    assert disk_bytes([str(tmp_path)], 10**12) == 10**12 + 1
