"""From the runner's pipes to the hub and to the one who judges: every line is read, whatever the hub gets of it."""

import asyncio
import os

from agent.output import Assembler, Output
from agent.reports import Reports
from agent.runners.port import STREAM_LINE_BYTES_MAX, Reader
from events.agent import OUTPUT_LINE_BYTES_MAX, AgentProgressed

READ_BYTES = 1_048_576
FLOOD_PAUSE_S = 0.01
PROGRESS_INTERVAL_S = 1.0


class Pump:
    """Reads both pipes of one program to their ends, however fast it comes; a flood is read slower, not kept."""

    def __init__(self, output: Output, reports: Reports, reader: Reader, *, own_stream: bool) -> None:
        self._output, self._reports, self._reader, self._own_stream = output, reports, reader, own_stream
        self._progressed_at_s = float("-inf")

    def start(self, stdout: int, stderr: int) -> list[asyncio.Task[None]]:
        """Read these descriptors, and close them at their ends."""
        return [asyncio.create_task(self._stdout(stdout)), asyncio.create_task(self._stderr(stderr))]

    async def _stdout(self, fd: int) -> None:
        lines = Assembler(STREAM_LINE_BYTES_MAX if self._own_stream else OUTPUT_LINE_BYTES_MAX)
        try:
            while data := await _read(fd):
                for raw in lines.feed(data):
                    self._hear(raw)
                await asyncio.sleep(FLOOD_PAUSE_S if self._output.flooded else 0)
        finally:
            os.close(fd)
            for raw in lines.end():
                self._hear(raw)

    async def _stderr(self, fd: int) -> None:
        lines = Assembler()
        try:
            while data := await _read(fd):
                for raw in lines.feed(data):
                    self._hear_error(raw)
                await asyncio.sleep(FLOOD_PAUSE_S if self._output.flooded else 0)
        finally:
            os.close(fd)
            for raw in lines.end():
                self._hear_error(raw)

    def _hear(self, raw: bytes) -> None:
        heard = self._reader.read(raw.decode(errors="replace"))
        if not self._own_stream:
            self._output.take("stdout", raw)
        else:
            for line in (each for text in heard.lines for each in text.splitlines() or [""]):
                self._output.take("stdout", line.encode(errors="replace"))
            self._output.take("raw", raw)
        if heard.progress is not None:
            self._progress(heard.progress)

    def _hear_error(self, raw: bytes) -> None:
        self._reader.read_error(raw.decode(errors="replace"))
        self._output.take("stderr", raw)

    def _progress(self, progress: AgentProgressed) -> None:
        now_s = asyncio.get_running_loop().time()
        if now_s - self._progressed_at_s >= PROGRESS_INTERVAL_S and self._reports.offer("spawner", progress):
            self._progressed_at_s = now_s


async def _read(fd: int) -> bytes:
    """Wait for what a non-blocking descriptor has; empty at its end."""
    loop = asyncio.get_running_loop()
    while True:
        try:
            return os.read(fd, READ_BYTES)
        except BlockingIOError:
            ready: asyncio.Future[None] = loop.create_future()
            loop.add_reader(fd, lambda waiting=ready: waiting.done() or waiting.set_result(None))
            try:
                await ready
            finally:
                loop.remove_reader(fd)
