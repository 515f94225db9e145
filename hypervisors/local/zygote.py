"""Our end of the zygote: a warm `agent.zygote` process that forks one agent per machine when asked.

It is asked over a socket pair, never by arguments or environment: a spec holds a credential. The zygote dies with the
socket (its end closes whatever happens to us), every agent dies with the zygote, every sandbox with its agent.

Frames are four bytes of length, big-endian, and JSON: `{"op": "fork", "key", "spec"}` answered by `forked` or
`failed`, `{"op": "kill", "key"}`, and on its own `exited` for an agent that is gone.
"""

import asyncio
import contextlib
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from pydantic import BaseModel, ConfigDict

from hypervisors.port import Unreachable

START_DEADLINE_S = 30.0
SILENCE_S = 10.0
"""So long the zygote may say nothing at all while something is asked of it; fifty at once may take longer together."""
ANSWER_S_MAX = 120.0
"""The longest that one answer is waited for, whatever else it says."""
T = TypeVar("T")
FRAME_BYTES_MAX = 128 * 1024 * 1024


class Said(BaseModel):
    """A frame from the zygote."""

    model_config = ConfigDict(frozen=True)

    op: str
    key: str = ""
    pid: int = 0
    exit_code: int = 0
    cpu_s: float = 0.0
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Gone:
    """An agent that is no more."""

    key: str
    exit_code: int
    cpu_s: float
    reason: str


class Zygote:
    """One zygote process; `on_gone` is called for each of its agents that ends, for all of them when it ends itself."""

    def __init__(self, on_gone: Callable[[Gone], None]) -> None:
        self._on_gone = on_gone
        self._process: subprocess.Popen[bytes] | None = None
        self._writer: asyncio.StreamWriter | None = None
        self._reading: asyncio.Task[None] | None = None
        self._forking: dict[str, asyncio.Future[int]] = {}
        self._gone: dict[str, asyncio.Event] = {}
        self._lock = asyncio.Lock()
        self._heard_at = 0.0

    @property
    def running(self) -> frozenset[str]:
        return frozenset(self._gone)

    @property
    def pid(self) -> int:
        return self._process.pid if self._process else 0

    async def start(self) -> None:
        """Start the process unless it runs; returns when it is warm.

        Raises:
            Unreachable: It did not come up.
        """
        async with self._lock:
            if self._reading is not None and not self._reading.done():
                return
            ours, theirs = socket.socketpair()
            try:
                self._process = _spawn(theirs)
            finally:
                theirs.close()
            reader, self._writer = await asyncio.open_connection(sock=ours)
            try:
                async with asyncio.timeout(START_DEADLINE_S):
                    await _frame(reader)
            except (OSError, EOFError, TimeoutError) as reason:
                await self._end()
                raise Unreachable(f"the agents' zygote did not start: {reason!r}") from reason
            self._reading = asyncio.create_task(self._read(reader), name="zygote")

    async def fork(self, key: str, spec: str, options: str = "{}") -> int:
        """Fork an agent; returns its process id.

        Raises:
            Unreachable: The zygote did not answer; whether the agent runs is in `running`.
        """
        await self.start()
        answer = self._forking.setdefault(key, asyncio.get_running_loop().create_future())
        try:
            await self._send(f'{{"op":"fork","key":"{key}","spec":{spec},"options":{options}}}')
            return await self._while_it_speaks(answer)
        except (OSError, TimeoutError) as reason:
            raise Unreachable(f"the zygote did not fork {key}: {reason!r}") from reason
        finally:
            self._forking.pop(key, None)

    async def kill(self, key: str) -> None:
        """Kill an agent, and with it everything in its sandbox; returns when it is gone.

        Raises:
            Unreachable: It is not gone in time.
        """
        gone = self._gone.get(key)
        if gone is None:
            return
        waiting = asyncio.ensure_future(gone.wait())
        try:
            await self._send(f'{{"op":"kill","key":"{key}"}}')
            await self._while_it_speaks(waiting)
        except (OSError, TimeoutError) as reason:
            raise Unreachable(f"agent {key} is not gone: {reason!r}") from reason
        finally:
            waiting.cancel()

    async def _while_it_speaks(self, waiting: "asyncio.Future[T]") -> T:
        """Return its result, for as long as the zygote is not silent for `SILENCE_S`, and at most after `ANSWER_S_MAX`.

        Raises:
            TimeoutError: It was, or that is over.
        """
        clock = asyncio.get_running_loop().time
        asked_at = clock()
        while not waiting.done():
            silent_at = max(asked_at, self._heard_at) + SILENCE_S
            left_s = min(silent_at, asked_at + ANSWER_S_MAX) - clock()
            if left_s <= 0:
                heard_s = clock() - max(asked_at, self._heard_at)
                raise TimeoutError(f"asked {clock() - asked_at:.1f} s ago, it has said nothing for {heard_s:.1f} s")
            await asyncio.wait([waiting], timeout=left_s)
        return waiting.result()

    async def close(self) -> None:
        """End the zygote, all its agents and all they run."""
        if self._reading is not None:
            self._reading.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._reading
        await self._end()

    async def _send(self, text: str) -> None:
        if self._writer is None:
            raise BrokenPipeError("the zygote is not running")
        data = text.encode()
        self._writer.write(len(data).to_bytes(4, "big") + data)
        await self._writer.drain()

    async def _read(self, reader: asyncio.StreamReader) -> None:
        reason = "the zygote closed its socket"
        try:
            while True:
                self._hear(await _frame(reader))
        except (OSError, EOFError, ValueError) as problem:
            reason = f"the zygote is gone: {problem!r}"
        finally:
            await self._end()
            self._all_gone(reason)

    def _hear(self, said: Said) -> None:
        self._heard_at = asyncio.get_running_loop().time()
        match said.op:
            case "forked":
                self._gone.setdefault(said.key, asyncio.Event())
                if (answer := self._forking.get(said.key)) is not None and not answer.done():
                    answer.set_result(said.pid)
            case "failed":
                if (answer := self._forking.get(said.key)) is not None and not answer.done():
                    answer.set_exception(Unreachable(f"the zygote could not fork {said.key}: {said.reason}"))
            case "exited":
                self._one_gone(Gone(said.key, said.exit_code, said.cpu_s, _words(said.exit_code)))
            case _:
                raise ValueError(f"unknown frame {said.op!r}")

    def _one_gone(self, gone: Gone) -> None:
        event = self._gone.pop(gone.key, None)
        if event is not None:
            event.set()
            self._on_gone(gone)

    def _all_gone(self, reason: str) -> None:
        for answer in self._forking.values():
            if not answer.done():
                answer.set_exception(Unreachable(reason))
        for key in tuple(self._gone):
            self._one_gone(Gone(key, -9, 0.0, reason))

    async def _end(self) -> None:
        if self._writer is not None:
            self._writer.close()
            self._writer = None
        if self._process is not None:
            process, self._process = self._process, None
            process.kill()
            await asyncio.to_thread(process.wait)


def _spawn(theirs: socket.socket) -> subprocess.Popen[bytes]:
    """Start the zygote with none of our environment, away from our terminal's signals.

    It also gets a parent-death signal when the thread that starts it is the one that lives as long as the process.
    """
    keep = (
        "PATH",
        "HOME",
        "LANG",
        "LC_ALL",
        "TZ",
        "PYTHONPATH",
        "AUTOVIBE_LOG_LEVEL",
        "COVERAGE_PROCESS_START",
        "COVERAGE_PROCESS_CONFIG",
    )
    die_with_parent = str(int(threading.current_thread() is threading.main_thread()))
    return subprocess.Popen(
        [sys.executable, "-P", "-m", "agent.zygote", str(theirs.fileno()), die_with_parent],
        pass_fds=[theirs.fileno()],
        stdin=subprocess.DEVNULL,
        start_new_session=True,
        cwd="/",
        env={name: os.environ[name] for name in keep if name in os.environ},
    )


async def _frame(reader: asyncio.StreamReader) -> Said:
    size_bytes = int.from_bytes(await reader.readexactly(4), "big")
    if size_bytes > FRAME_BYTES_MAX:
        raise ValueError(f"a frame of {size_bytes} bytes; at most {FRAME_BYTES_MAX}")
    return Said.model_validate_json(await reader.readexactly(size_bytes))


def _words(exit_code: int) -> str:
    return f"the agent was killed by signal {-exit_code}" if exit_code < 0 else f"the agent ended with code {exit_code}"
