"""A server process that dies with ours."""

import asyncio
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from cli.stack import tether

LOG_TAIL_CHARS = 2000
POLL_S = 0.003
"""Between two looks at a file that a starting server will write; a nats-server is up in 10 to 20 ms."""
KILL_S = 10.0
"""What the kernel gets to end a process that was sent SIGKILL."""


class ServerFailedError(Exception):
    """A server did not come up, or ended by itself; the message ends with the tail of its log."""


class Process:
    """A child process; independent of any event loop, so that one loop may start it and another stop it."""

    def __init__(self, name: str, popen: subprocess.Popen[bytes], log: Path) -> None:
        self.name = name
        self.log = log
        self._popen = popen
        self._pidfd = os.pidfd_open(popen.pid)

    @classmethod
    def spawn(
        cls, argv: Sequence[str | Path], *, cwd: Path, log: Path, env: Mapping[str, str] | None = None
    ) -> "Process":
        """Start `argv`, tied to this process by SIGKILL; what it prints goes to `log`, which is emptied first.

        Raises:
            RuntimeError: Called outside the main thread. The kernel ties a child to the *thread* that made it
                (prctl(2), PR_SET_PDEATHSIG): it would be killed when that thread ends.
        """
        if threading.current_thread() is not threading.main_thread():
            raise RuntimeError(f"{argv[0]} must be started by the main thread: it would die with this one")
        launcher = [sys.executable, "-I", "-S", tether.__file__, str(os.getpid())]
        with log.open("wb") as output:
            popen = subprocess.Popen(
                [*launcher, *map(str, argv)],
                cwd=cwd,
                env=env,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                # A terminal's Ctrl-C goes to the whole process group: the servers are stopped by us, in order.
                process_group=0,
            )
        return cls(Path(argv[0]).name, popen, log)

    @property
    def pid(self) -> int:
        return self._popen.pid

    @property
    def returncode(self) -> int | None:
        """The exit code, negative for a signal; None while it runs."""
        return self._popen.poll()

    async def ended(self, deadline_s: float | None = None) -> int:
        """Wait until the process has ended, for ever by default, and return its exit code.

        Raises:
            TimeoutError: It still runs after `deadline_s`.
        """
        if self.returncode is None:
            loop, gone = asyncio.get_running_loop(), asyncio.Event()
            watched = os.dup(self._pidfd)  # several may wait; a loop watches a descriptor once
            loop.add_reader(watched, gone.set)
            try:
                async with asyncio.timeout(deadline_s):
                    await gone.wait()
            finally:
                loop.remove_reader(watched)
                os.close(watched)
        return self._popen.wait()

    async def stop(self, *, grace_s: float, number: signal.Signals = signal.SIGTERM, pid: int | None = None) -> int:
        """Ask the process to end (or `pid`, where the server is below a launcher), then make it."""
        if self.returncode is None:
            _send(pid or self.pid, number)
            try:
                return await self.ended(grace_s)
            except TimeoutError:
                self.kill(pid)
                self.kill()
        return await self.ended(KILL_S)

    def kill(self, pid: int | None = None) -> None:
        """End the process (or `pid`, the server below it) by SIGKILL, without waiting."""
        _send(pid or self.pid, signal.SIGKILL)

    def close(self) -> None:
        """Let go of the ended process's descriptor."""
        os.close(self._pidfd)

    async def until(self, ready: Callable[[], bool], *, deadline_s: float, what: str) -> None:
        """Wait until `ready()`.

        Raises:
            ServerFailedError: The process ended first, or `deadline_s` went by; it is then still running.
        """
        try:
            async with asyncio.timeout(deadline_s):
                while not ready():
                    if self.returncode is not None:
                        raise ServerFailedError(
                            f"{self.name} ended with {self.returncode} before {what}: {self.tail()}"
                        )
                    await asyncio.sleep(POLL_S)
        except TimeoutError as late:
            raise ServerFailedError(f"{self.name}: not {what} within {deadline_s:g} s: {self.tail()}") from late

    def tail(self) -> str:
        """Return the end of what the process printed."""
        return self.log.read_text(errors="replace")[-LOG_TAIL_CHARS:].strip()


def _send(pid: int, number: signal.Signals) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return  # it ended meanwhile, which is what was asked for
