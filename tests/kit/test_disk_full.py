"""The disk under the log is full: refusals are clear and quick, nothing acknowledged is lost, a restart heals."""

import asyncio
import os
import random
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from cli.stack.nats import EmbeddedNats, NatsConfig
from events import address
from events.envelope import Cause
from events.project import ProjectCreated
from services.kit import topology
from services.kit.bus import Bus, BusSettings
from services.kit.errors import LogFull, LogStuck
from services.kit.log import Write
from services.kit.stuck import write_error
from tests.harness import free_port, short_directory

CAUSE = Cause("client:ann")


def mount(directory: Path, size: str, *, remount: bool = False) -> bool:
    options = f"{'remount,' if remount else ''}size={size}"
    found = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", options, "store", directory], capture_output=True, check=False
    )
    return found.returncode == 0


@pytest_asyncio.fixture
async def small_server() -> AsyncIterator[EmbeddedNats]:
    with short_directory() as directory:
        store = directory / "store"
        store.mkdir()
        if os.geteuid() != 0 or not mount(store, "6m"):
            pytest.skip("mounting a small file system needs the right to mount")
        try:
            async with EmbeddedNats(directory, NatsConfig(port=free_port(), monitor_port=free_port())) as running:
                yield running
        finally:
            subprocess.run(["umount", store], check=True)


def large(name: str) -> Write:
    return Write(address.project(name), 0, (ProjectCreated(description=random.randbytes(2000).hex()),))


async def fill(bus: Bus, acknowledged: list[str], deadline_s: float = 30) -> None:
    """Append until it is refused."""
    for n in range(10_000):
        await bus.log.append(large(f"p{n}"), cause=CAUSE, deadline_s=deadline_s)
        acknowledged.append(f"p{n}")


async def test_a_full_disk_is_said_at_once_and_healed_by_a_restart(small_server: EmbeddedNats) -> None:
    monitor = f"http://127.0.0.1:{small_server.config.monitor_port}"
    settings = BusSettings(nats_url=small_server.url, nats_inbox_prefix="_INBOX", nats_monitor_url=monitor)
    async with Bus.connect(settings, name="test") as bus:
        await topology.apply(bus)
        assert await write_error(monitor) == ""
        acknowledged: list[str] = []
        with pytest.raises(LogFull, match="no space left on device"):
            await asyncio.wait_for(fill(bus, acknowledged), 30)
        outcomes = await asyncio.gather(
            *(bus.log.append(large(f"q{n}"), cause=CAUSE) for n in range(10)), return_exceptions=True
        )
        assert {type(outcome) for outcome in outcomes} == {LogFull}
        assert "no space left" in await write_error(monitor)
        assert mount(small_server.directory / "store", "60m", remount=True)
        await small_server.start()
        assert await write_error(monitor) == ""
        assert (await bus.log.append(large("after"), cause=CAUSE)).seq > len(acknowledged)
        for n, name in enumerate(acknowledged):
            assert (await bus.log.load(address.project(name))).seq == n + 1


async def test_without_the_monitoring_port_a_silent_server_is_called_stuck(
    small_server: EmbeddedNats, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("services.kit.log_append.ATTEMPT_TIMEOUT_S", 0.3)
    settings = BusSettings(nats_url=small_server.url, nats_inbox_prefix="_INBOX")
    async with Bus.connect(settings, name="test") as bus:
        await topology.apply(bus)
        with pytest.raises(LogStuck):
            await fill(bus, [], deadline_s=2)
        assert bus.log.stuck
