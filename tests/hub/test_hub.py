"""What the hub says of itself."""

import asyncio
import os
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from cli.stack.nats import EmbeddedNats
from events.hub import HubRegistered
from events.words import HubType
from services.hub.app import PRIMARY, HubSettings, create_app
from services.kit import topology
from services.kit.bus import Bus
from services.kit.settings import BusSettings
from tests.harness import eventually

ROOT = Path(__file__).resolve().parents[2]
UP = ["HubRegistered", "HubStarted"]


@pytest_asyncio.fixture
async def bus(nats_server: EmbeddedNats) -> AsyncIterator[Bus]:
    async with Bus.connect(BusSettings(nats_url=nats_server.url), name="test") as bus:
        await topology.apply(bus)
        yield bus


async def said(bus: Bus) -> list[str]:
    return [recorded.envelope.type for recorded in (await bus.log.load(PRIMARY)).events]


async def test_the_first_start_registers_a_primary_hub(bus: Bus) -> None:
    async with create_app(bus, HubSettings(hub_name="home")) as hub:
        assert (await hub.health()).ok
        assert await said(bus) == UP
    registered = (await bus.log.load(PRIMARY)).events[0].event
    assert isinstance(registered, HubRegistered)
    assert (registered.hub_type, registered.name) == (HubType.PRIMARY, "home")


async def test_it_registers_once_and_says_every_start_and_every_clean_stop(bus: Bus) -> None:
    for _ in range(2):
        async with create_app(bus, HubSettings()):
            pass
    assert await said(bus) == [*UP, "HubStopped", "HubStarted", "HubStopped"]


async def test_after_a_crash_there_is_no_stop(bus: Bus) -> None:
    with pytest.raises(RuntimeError, match="crash"):
        async with create_app(bus, HubSettings()):
            raise RuntimeError("crash")
    assert await said(bus) == UP


async def test_a_log_that_cannot_be_reached_does_not_keep_it_from_stopping(
    bus: Bus, nats_server: EmbeddedNats, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("services.hub.app.STOP_DEADLINE_S", 0.5)
    async with create_app(bus, HubSettings()):
        await nats_server.stop()


async def test_two_that_start_at_once_register_one_hub(bus: Bus) -> None:
    first, second = create_app(bus, HubSettings()), create_app(bus, HubSettings())
    await asyncio.gather(first.__aenter__(), second.__aenter__())
    assert sorted(await said(bus)) == [*UP, "HubStarted"]


async def test_as_a_process_it_stops_in_order_when_told(bus: Bus, nats_server: EmbeddedNats) -> None:
    environment = {**os.environ, "AUTOVIBE_NATS_URL": nats_server.url, "AUTOVIBE_HEALTH_PORT": "0"}
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "services.hub", cwd=ROOT, env=environment, stdout=asyncio.subprocess.DEVNULL
    )
    try:
        await eventually(lambda: _has_said(bus, UP))
        process.terminate()
        assert await asyncio.wait_for(process.wait(), 20) == 0
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert await said(bus) == [*UP, "HubStopped"]


async def _has_said(bus: Bus, types: list[str]) -> bool:
    return await said(bus) == types
