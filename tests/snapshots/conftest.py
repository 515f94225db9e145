from collections.abc import Iterator
from pathlib import Path

import pytest

from snapshots.directory import DirectoryChunkStore


@pytest.fixture
def store(tmp_path: Path) -> Iterator[DirectoryChunkStore]:
    with DirectoryChunkStore(tmp_path / "store") as store:
        yield store


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "source"
    path.mkdir()
    return path
