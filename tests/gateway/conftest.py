"""A bus on a nats-server per test."""

from collections.abc import AsyncIterator

import pytest_asyncio

from cli.stack.nats import EmbeddedNats
from services.kit import topology
from services.kit.bus import Bus
from services.kit.settings import BusSettings


@pytest_asyncio.fixture
async def bus(nats_server: EmbeddedNats) -> AsyncIterator[Bus]:
    async with Bus.connect(BusSettings(nats_url=nats_server.url), name="test") as bus:
        await topology.apply(bus)
        yield bus
