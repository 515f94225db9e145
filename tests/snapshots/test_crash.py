"""A capture may die at any moment: what it said it captured is whole, and the store goes on."""

import os
import random
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from snapshots.capture import capture
from snapshots.directory import DirectoryChunkStore
from snapshots.errors import StoreFull, Transient
from snapshots.restore import restore
from snapshots.verify import verify
from tests.snapshots.trees_of_files import many

LOOP = """
import os, sys
from pathlib import Path
from snapshots import packs
from snapshots.capture import capture
from snapshots.directory import DirectoryChunkStore
packs.PACK_BYTES_MAX = 200_000
source = Path(sys.argv[2])
with DirectoryChunkStore(Path(sys.argv[1])) as store:
    parent = None
    for number in range(10_000):
        for index in range(30):
            (source / f"changing{index}").write_bytes(os.urandom(20_000))
        parent = capture({"workspace": source}, store, parent=parent).digest
        print(parent, flush=True)
"""
RUNS = 12


def test_a_capture_killed_at_any_moment_leaves_a_store_with_all_it_had_reported(tmp_path: Path) -> None:
    seed = int.from_bytes(os.urandom(4))
    print("seed", seed)  # noqa: T201
    chance = random.Random(seed)
    source = tmp_path / "source"
    many(source, 100)
    reported: list[str] = []
    for _ in range(RUNS):
        process = subprocess.Popen(
            [sys.executable, "-c", LOOP, str(tmp_path / "store"), str(source)], stdout=subprocess.PIPE, text=True
        )
        assert process.stdout is not None
        reported.append(process.stdout.readline().strip())
        time.sleep(chance.random() * 0.15)  # not waiting for anything: the moment of death is the input
        process.send_signal(signal.SIGKILL)
        out, _ = process.communicate(timeout=20)
        reported += [line for line in out.split("\n")[:-1] if len(line) == 64]
        with DirectoryChunkStore(tmp_path / "store") as store:
            assert [verify(digest, store).problems for digest in reported[-2:]] == [()] * len(reported[-2:])
    with DirectoryChunkStore(tmp_path / "store") as store:
        store.compare_index()
        assert all(verify(digest, store).ok for digest in reported)
        last = capture({"workspace": source}, store)
        restore(last.digest, tmp_path / "out", store)
        store.sweep([bytes.fromhex(last.digest)], grace_s=0)
        assert not list((store.path / "tmp").iterdir())
        assert verify(last.digest, store).ok
    assert len(reported) >= RUNS


STEPS = ["write", "fsync", "rename"]


@pytest.mark.parametrize("step", STEPS)
def test_an_input_output_error_at_any_step_is_transient_and_leaves_nothing(
    store: DirectoryChunkStore, source: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    many(source, 50)
    before = capture({"workspace": source}, store)
    (source / "more").write_bytes(os.urandom(3 << 20))
    with monkeypatch.context() as patched:
        patched.setattr(os, step, failing)
        with pytest.raises(Transient, match="Input/output error"):
            capture({"workspace": source}, store)
    assert verify(before.digest, store).ok
    assert store.stats().packs == 1
    assert len(list(store.packs_path.iterdir())) == 1
    assert not list((store.path / "tmp").iterdir())
    assert verify(capture({"workspace": source}, store).digest, store).ok


def failing(*_: object, **__: object) -> None:
    raise OSError(5, "Input/output error")


def test_a_disk_without_space_for_the_index_is_a_full_store(store: DirectoryChunkStore, source: Path) -> None:
    many(source, 600)
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, limit[1]))
        with pytest.raises(StoreFull):
            capture({"workspace": source}, store)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
        signal.signal(signal.SIGXFSZ, handler)
    assert verify(capture({"workspace": source}, store).digest, store).ok
