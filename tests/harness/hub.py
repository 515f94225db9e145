"""A whole hub, as a user starts it: `autovibe dev` in a process of its own, and the command line against it."""

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest_asyncio

from cli.context import Context
from tests.harness.places import short_directory

READY_S = 60.0
STOP_S = 30.0
COMMAND_S = 60.0
SAID_BYTES_MAX = 500_000
ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True, slots=True)
class Done:
    """A command that has ended."""

    exit_code: int
    out: str
    err: str

    @property
    def json(self) -> list[dict[str, object]]:
        """What it printed with --json: a document a line."""
        return [json.loads(line) for line in self.out.splitlines()]

    def only(self) -> dict[str, object]:
        (document,) = self.json
        return document


class RunningHub:
    """A hub that runs, and how to reach it."""

    def __init__(self, data: Path, *arguments: str, settings: Mapping[str, str] | None = None) -> None:
        self.data = data
        self.settings = dict(settings or {})
        """`AUTOVIBE_*` of the hub; what is changed counts from its next start on."""
        self._arguments = arguments
        self._process: asyncio.subprocess.Process | None = None
        self.context = Context()
        self._heard = bytearray()

    @property
    def said(self) -> str:
        """The end of what it has said, its log above all."""
        return self._heard.decode(errors="replace")

    @property
    def process(self) -> asyncio.subprocess.Process:
        assert self._process is not None, "the hub was not started"
        return self._process

    @property
    def environment(self) -> dict[str, str]:
        """The environment of a user's terminal, pointed at this hub."""
        mine = {name: value for name, value in os.environ.items() if not name.startswith("AUTOVIBE_")}
        here = {"AUTOVIBE_CONTEXT": str(self.data / "client.json"), "PYTHONPATH": str(ROOT), "NO_COLOR": "1"}
        return {**mine, **here, **self.settings}

    async def start(self) -> None:
        """Start it and return when it says that it is ready."""
        self._heard = bytearray()
        ports = ("--port", "0", "--store-port", "0", "--gateway-port", "0", "--nats-port", "0")
        self._process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "cli", "dev", "--data", str(self.data), *ports, "--json", *self._arguments),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env=self.environment,
            limit=1024 * 1024,
        )
        assert self._process.stdout is not None
        async with asyncio.timeout(READY_S):
            line = await self._process.stdout.readline()
        if not line.startswith(b'{"ready":true'):
            _, err = await self._process.communicate()
            raise AssertionError(f"the hub did not start: {line.decode()} {err.decode()[-4000:]}")
        self._drain = asyncio.ensure_future(_drain(self._process, self._heard))
        self.context = Context(**json.loads((self.data / "client.json").read_text()))

    async def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Send it a signal and wait for its end; return its exit code."""
        if self.process.returncode is None:
            self.process.send_signal(number)
        async with asyncio.timeout(STOP_S):
            code = await self.process.wait()
            await self._drain
        return code

    async def run(self, *arguments: str, timeout_s: float = COMMAND_S) -> Done:
        """Run a command to its end, as a user types it."""
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "cli", *arguments),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env=self.environment,
        )
        try:
            async with asyncio.timeout(timeout_s):
                out, err = await process.communicate()
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        assert process.returncode is not None
        return Done(process.returncode, out.decode(), err.decode())

    async def ok(self, *arguments: str, timeout_s: float = COMMAND_S) -> Done:
        """Run a command that must succeed."""
        done = await self.run(*arguments, timeout_s=timeout_s)
        assert done.exit_code == 0, f"autovibe {' '.join(arguments)}: {done.exit_code}\n{done.out}\n{done.err}"
        return done


async def _drain(process: asyncio.subprocess.Process, heard: bytearray) -> None:
    """Keep reading what the hub says, so that it never waits for us."""
    assert process.stdout is not None
    assert process.stderr is not None
    for stream in (process.stderr, process.stdout):
        while chunk := await stream.read(65_536):
            heard += chunk
            del heard[:-SAID_BYTES_MAX]


@asynccontextmanager
async def running_hub(
    *arguments: str, data: Path | None = None, settings: Mapping[str, str] | None = None
) -> AsyncGenerator[RunningHub]:
    """Give a hub on a directory of its own, or on `data`, and take it down with everything in it afterwards."""
    with short_directory() as directory:
        hub = RunningHub(data or directory, *arguments, settings=settings)
        await hub.start()
        try:
            yield hub
        finally:
            if hub.process.returncode is None:
                await hub.stop()


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def hub() -> AsyncGenerator[RunningHub]:
    """One hub for the tests of a module; each test makes a project of its own in it."""
    async with running_hub() as running:
        yield running
