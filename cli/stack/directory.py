"""The directory of an embedded server: one owner at a time, and nobody left over from the last one."""

import asyncio
import fcntl
import hashlib
import os
import tempfile
from pathlib import Path

LEFTOVER_S = 20.0
"""How long a dead owner's processes may take to go: PostgreSQL's backends notice within seconds."""
POLL_S = 0.02
SOCKET_PATH_BYTES_MAX = 107
"""sun_path holds 108 with its final zero (unix(7))."""


class DirectoryInUseError(Exception):
    """Another process runs on this directory; stop it, or take another directory."""


class Claim:
    """An exclusive lock on a directory that ends with the process that holds it, by SIGKILL too."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._descriptor: int | None = None

    async def take(self) -> None:
        """Make the directory (0700), lock it, and wait until no process works in it any more.

        Raises:
            DirectoryInUseError: Somebody else holds it.
        """
        self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.directory.chmod(0o700)
        if self._descriptor is None:
            self._descriptor = _lock(self.directory / "lock")
        try:
            await self._leftovers_gone()
        except BaseException:
            self.release()
            raise

    async def _leftovers_gone(self) -> None:
        try:
            async with asyncio.timeout(LEFTOVER_S):
                while working_in(self.directory):
                    await asyncio.sleep(POLL_S)
        except TimeoutError as late:
            pids = ", ".join(map(str, working_in(self.directory)))
            raise DirectoryInUseError(
                f"processes {pids} still work in {self.directory} after {LEFTOVER_S:g} s"
            ) from late

    def release(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


def held(directory: Path) -> bool:
    """Whether somebody holds the directory now; only a claim makes sure."""
    if not (directory / "lock").exists():
        return False
    try:
        os.close(_lock(directory / "lock"))
    except DirectoryInUseError:
        return True
    return False


def working_in(directory: Path) -> list[int]:
    """Return the ids of the processes whose working directory is `directory` or below it (ours excepted)."""
    inside = directory.resolve()
    return [pid for pid in _pids() if pid != os.getpid() and _cwd(pid).is_relative_to(inside)]


def socket_directory(directory: Path, socket_name: str) -> Path:
    """Return where to put a unix socket: `directory`, or one of our own in /tmp when the path would be too long."""
    if len(os.fsencode(directory / socket_name)) <= SOCKET_PATH_BYTES_MAX:
        return directory
    digest = hashlib.blake2s(os.fsencode(directory), digest_size=8).hexdigest()
    short = Path(tempfile.gettempdir()) / f"autovibe-{os.getuid()}-{digest}"
    short.mkdir(mode=0o700, exist_ok=True)
    facts = short.lstat()
    if facts.st_uid != os.getuid() or facts.st_mode & 0o077 or short.is_symlink():
        raise DirectoryInUseError(f"{short} is not ours alone; remedy: remove it, or use a shorter data directory")
    return short


def _lock(path: Path) -> int:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as held:
        os.close(descriptor)
        raise DirectoryInUseError(f"{path.parent} is in use by another process; stop it or take another one") from held
    return descriptor


def _pids() -> list[int]:
    return [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()]


def _cwd(pid: int) -> Path:
    try:
        return Path(f"/proc/{pid}/cwd").readlink()
    except OSError:
        return Path("/")  # ended meanwhile, a zombie, or another user's: none of them can be ours
