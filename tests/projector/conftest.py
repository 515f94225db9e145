"""A log to project: a real server, the streams, and ways to say things."""

from collections.abc import AsyncIterator

import pytest_asyncio

from cli.stack.nats import EmbeddedNats
from services.kit import topology
from services.kit.bus import Bus
from services.kit.settings import BusSettings


@pytest_asyncio.fixture
async def bus(nats_server: EmbeddedNats) -> AsyncIterator[Bus]:
    async with Bus.connect(BusSettings(nats_url=nats_server.url), name="test") as made:
        await topology.apply(made)
        yield made
