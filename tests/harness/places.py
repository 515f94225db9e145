"""Directories and ports that tests run servers on."""

import shutil
import socket
import tempfile
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def short_directory() -> Generator[Path]:
    """Give a directory with a short path (pytest's own are too long for a unix socket), and remove it afterwards."""
    directory = Path(tempfile.mkdtemp(prefix="av-", dir="/tmp"))
    try:
        yield directory
    finally:
        shutil.rmtree(directory)


def free_port() -> int:
    """Return a TCP port of 127.0.0.1 that nobody listens on; where a server can choose its own, let it."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]
