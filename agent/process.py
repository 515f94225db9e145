"""The runner's process tree: started through the launcher, signalled inside, and never outlived by anything it made."""

import asyncio
import contextlib
import fcntl
import os
import signal
import socket
import subprocess
import time
from collections.abc import Generator, Mapping, Sequence
from pathlib import Path
from stat import S_ISREG
from typing import IO

from agent.runners.port import Program

PIPE_BYTES = 1_048_576
_BOOT_FD_MIN = 20
"""Above what the launcher's shell uses; the bootstrap closes it before the program starts."""
KILL_DEADLINE_S = 10.0
_MAIN_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

_READ_ENV = 'while IFS= read -r -d "" _boot <&{fd} && [ -n "$_boot" ]; do export "$_boot"; done; '
_RUN_SCRIPT = _READ_ENV + 'IFS= read -r -d "" _boot <&{fd}; exec {fd}<&-; eval "unset _boot; $_boot"'
_WAIT = "echo >&{gate}; IFS= read -r _boot <&{gate} || exit 125; exec {gate}>&-; "
"""Before anything of the program's is read: nothing in the sandbox runs until its way out stands."""
_RUN_ARGV = _READ_ENV + 'unset _boot; exec {fd}<&-; exec "$@"'


class RunnerProcess:
    """One started runner. Create it from the thread that lives as long as the process: its parent-death signal."""

    def __init__(
        self,
        launcher: Sequence[str],
        program: Program,
        defaults: Mapping[str, str],
        cwd: str,
        gate: socket.socket | None = None,
    ) -> None:
        """`gate`: the program says on it that it is there, and begins when it is answered a line."""
        with (
            _boot_file(program, defaults) as fd,
            _memory("stdin", program.stdin.encode()) as stdin,
            _high(gate) as gate_fd,
        ):
            text = (_RUN_ARGV if program.script is None else _RUN_SCRIPT).format(fd=fd)
            if gate_fd is not None:
                text = _WAIT.format(gate=gate_fd) + text
            self._popen = subprocess.Popen(
                [*launcher, "bash", "-c", text, "goal", *program.argv],
                stdin=stdin if program.stdin else subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                pass_fds=[fd] if gate_fd is None else [fd, gate_fd],
                cwd=cwd,
                env={"PATH": _MAIN_PATH, "LANG": "C.UTF-8", "AUTOVIBE_AGENT": str(os.getpid())},
                start_new_session=not launcher,
            )
        self._confined = bool(launcher)
        self.stdout, self.stderr = (_pipe(stream) for stream in (self._popen.stdout, self._popen.stderr))
        self._exit: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._pidfd = os.pidfd_open(self._popen.pid)
        asyncio.get_running_loop().add_reader(self._pidfd, self._ended)

    async def wait(self) -> int:
        """Return the exit code; -N where a signal ended the program (bwrap says 128 + N of that)."""
        code = await asyncio.shield(self._exit)
        return 128 - code if self._confined and 128 < code < 160 else code

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to every process of the program; not to the launcher, whose end would kill them all."""
        for pid in _descendants(self._popen.pid):
            if self._is_program(pid):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, number)

    def kill(self) -> None:
        """Kill the launcher: the kernel then kills everything in its process namespace."""
        if self._popen.poll() is None:
            self._popen.kill()

    async def close(self, cgroups: Sequence[Path] = ()) -> None:
        """Return when no process is left that the runner made, however it tried to get away.

        Raises:
            TimeoutError: The kernel did not let go of one.
        """
        self.kill()
        until = time.monotonic() + KILL_DEADLINE_S
        while left := self._left(cgroups):
            if time.monotonic() > until:
                raise TimeoutError(f"processes {left[:10]} do not end")
            for group in cgroups:
                with contextlib.suppress(OSError):
                    (group / "cgroup.kill").write_text("1")
            await asyncio.sleep(0.002)
        self._ended()

    def _left(self, cgroups: Sequence[Path]) -> list[int]:
        """Kill and reap our children, adopted ones included; return who is still there."""
        for pid in _children(os.getpid()):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
            if pid == self._popen.pid:
                self._popen.poll()
            else:
                with contextlib.suppress(ChildProcessError):
                    os.waitpid(pid, os.WNOHANG)
        return _children(os.getpid()) or [pid for group in cgroups for pid in _members(group)]

    def memory_bytes(self) -> int:
        """What all its processes have in memory, shared pages counted for each."""
        return sum(_resident_bytes(pid) for pid in _descendants(self._popen.pid))

    def unlinked_bytes(self, device: int) -> int:
        """What its processes hold open on this device of files that have no name any more."""
        return sum(_unlinked(_descendants(self._popen.pid), device).values())

    def _is_program(self, pid: int) -> bool:
        if not self._confined:
            return True
        ids = _namespace_ids(pid)
        return len(ids) > 1 and ids[-1] != 1

    def _ended(self) -> None:
        code = self._popen.poll()
        if code is not None and self._pidfd >= 0:
            asyncio.get_running_loop().remove_reader(self._pidfd)
            os.close(self._pidfd)
            self._pidfd = -1
            if not self._exit.done():
                self._exit.set_result(code)


@contextlib.contextmanager
def _boot_file(program: Program, defaults: Mapping[str, str]) -> Generator[int]:
    """A file in memory with the environment and the script, each ended by NUL; no NUL can be inside them."""
    settings = [f"{name}={value}" for name, value in {**defaults, **program.env}.items()]
    parts = [*settings, "", program.script or ""]
    content = "".join(part.replace("\0", "") + "\0" for part in parts).encode()
    with _memory("goal", content) as memory:
        fd = fcntl.fcntl(memory, fcntl.F_DUPFD_CLOEXEC, _BOOT_FD_MIN)
    try:
        yield fd
    finally:
        os.close(fd)


@contextlib.contextmanager
def _high(gate: socket.socket | None) -> Generator[int | None]:
    """Its descriptor where the launcher's shell uses none."""
    if gate is None:
        yield None
        return
    fd = fcntl.fcntl(gate, fcntl.F_DUPFD_CLOEXEC, _BOOT_FD_MIN)
    try:
        yield fd
    finally:
        os.close(fd)


@contextlib.contextmanager
def _memory(name: str, content: bytes) -> Generator[int]:
    """A file in memory, open at its beginning."""
    memory = os.memfd_create(name, os.MFD_CLOEXEC)
    try:
        with os.fdopen(os.dup(memory), "wb") as file:
            file.write(content)
        os.lseek(memory, 0, os.SEEK_SET)
        yield memory
    finally:
        os.close(memory)


def _pipe(stream: IO[bytes] | None) -> int:
    """Take the descriptor of a pipe's reading end; wide and not blocking."""
    assert stream is not None
    with stream:
        fd = os.dup(stream.fileno())
    with contextlib.suppress(OSError):
        fcntl.fcntl(fd, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
    os.set_blocking(fd, False)
    return fd


def _children(pid: int) -> list[int]:
    found: list[int] = []
    with contextlib.suppress(OSError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            found += map(int, (task / "children").read_text().split())
    return found


def _descendants(pid: int) -> list[int]:
    found = [pid]
    for each in found:
        found += _children(each)
    return found


def _members(group: Path) -> list[int]:
    try:
        return [int(pid) for pid in (group / "cgroup.procs").read_text().split()]
    except OSError:
        return []


def _namespace_ids(pid: int) -> list[int]:
    """The process's id in each namespace, ours first."""
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("NSpid:"):
                return [int(each) for each in line.split()[1:]]
    return []


def _unlinked(pids: Sequence[int], device: int) -> dict[int, int]:
    """Bytes on disk by inode; a process that ends meanwhile is left out."""
    found: dict[int, int] = {}
    for pid in pids:
        with contextlib.suppress(OSError), os.scandir(f"/proc/{pid}/fd") as entries:
            for entry in entries:
                with contextlib.suppress(OSError):
                    status = entry.stat()
                    if status.st_nlink == 0 and status.st_dev == device and S_ISREG(status.st_mode):
                        found[status.st_ino] = status.st_blocks * 512
    return found


def _resident_bytes(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, IndexError):
        return 0
