"""A parent process that runs a server and can be killed."""

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
Parent = tuple[subprocess.Popen[str], int, str]


@pytest.fixture
def parent(short_tmp: Path) -> Iterator[Callable[[str], Parent]]:
    """Start a process that runs a server of this kind on `short_tmp`; gives it, the server's pid and address."""
    started: list[subprocess.Popen[str]] = []

    def start(kind: str) -> Parent:
        argv = [sys.executable, "-m", "tests.stack.parent", kind, str(short_tmp)]
        process = subprocess.Popen(argv, cwd=ROOT, stdout=subprocess.PIPE, text=True)
        started.append(process)
        assert process.stdout is not None
        pid, _, address = process.stdout.readline().strip().partition(" ")
        return process, int(pid), address

    yield start
    for process in started:
        process.kill()
        process.communicate()
