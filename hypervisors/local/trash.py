"""Where the trees of ended incarnations go, and who removes them: later, one after the other, with what time is left.

Removing 1,000 files costs 100 to 300 ms, and ext4 then searches past every inode that was freed in the last minute when
it makes new files near by (measured: a restore of 1,000 files 35 ms, beside as many just removed 250 ms). So an end does
not wait for the removal, and every machine's directory begins in a block group of its own (`spread`).
"""

import array
import asyncio
import fcntl
import os
import uuid
from contextlib import suppress
from pathlib import Path

import structlog

from hypervisors.port import Unreachable

GET_FLAGS, SET_FLAGS, TOP_DIRECTORY = 0x8008_6601, 0x4008_6602, 0x0002_0000
"""FS_IOC_GETFLAGS, FS_IOC_SETFLAGS and FS_TOPDIR_FL of linux/fs.h: what `chattr +T` sets."""

_log: structlog.stdlib.BoundLogger = structlog.get_logger("hypervisor")


class Trash:
    """One directory of trees to be removed; what an earlier run left in it is removed too."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._work: asyncio.Task[None] | None = None
        self._more = asyncio.Event()

    def open(self) -> None:
        self._directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._more.set()
        self._work = asyncio.create_task(self._empty(), name="local-hypervisor-trash")

    async def close(self) -> None:
        """Stop removing; what is left is removed by the next run."""
        if self._work is not None:
            self._work.cancel()
            await asyncio.gather(self._work, return_exceptions=True)

    def put(self, tree: Path) -> None:
        """Move a tree out of sight at once; nothing to do where there is none.

        Raises:
            Unreachable: It cannot be moved.
        """
        try:
            tree.rename(self._directory / uuid.uuid4().hex)
        except FileNotFoundError:
            return
        except OSError as reason:
            raise Unreachable(f"could not put {tree} away: {reason}") from reason
        self._more.set()

    async def _empty(self) -> None:
        while True:
            await self._more.wait()
            self._more.clear()
            for tree in await asyncio.to_thread(lambda: list(self._directory.iterdir())):
                await _remove(tree)


async def _remove(tree: Path) -> None:
    """Remove a tree that a hostile program made: `rm` copes with any depth and any names, and follows no links.

    What it cannot remove stays; it is in nobody's way and tried again by the next run.
    """
    try:
        remove = await asyncio.create_subprocess_exec(
            *("nice", "-n", "19", "rm", "-rf", "--one-file-system", "--", str(tree)), stderr=asyncio.subprocess.DEVNULL
        )
    except OSError as reason:  # no process or descriptor to be had just now: whoever waits here must not end for that
        _log.warning("trash.kept", tree=tree.name, reason=str(reason))
        return
    try:
        await remove.wait()
    finally:
        if remove.returncode is None:
            remove.kill()
            await remove.wait()


def spread(directory: Path) -> None:
    """Let ext4 begin every directory in this one in a block group of its own; elsewhere there is nothing to spread."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        with suppress(OSError):
            flags = array.array("l", [0])
            fcntl.ioctl(descriptor, GET_FLAGS, flags)
            fcntl.ioctl(descriptor, SET_FLAGS, array.array("l", [flags[0] | TOP_DIRECTORY]))
    finally:
        os.close(descriptor)
