"""A server on a fixed port, so that it can be killed and come back, and a bus with the topology applied."""

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager

import pytest_asyncio

from cli.stack.nats import EmbeddedNats, NatsConfig
from services.kit import topology
from services.kit.bus import Bus, BusSettings
from tests.harness import free_port, short_directory


def connect(server: EmbeddedNats, name: str = "test") -> AbstractAsyncContextManager[Bus]:
    return Bus.connect(BusSettings(nats_url=server.url, nats_inbox_prefix="_INBOX"), name=name)


@pytest_asyncio.fixture
async def server() -> AsyncIterator[EmbeddedNats]:
    with short_directory() as directory:
        async with EmbeddedNats(directory, NatsConfig(port=free_port())) as running:
            yield running


@pytest_asyncio.fixture
async def bus(server: EmbeddedNats) -> AsyncIterator[Bus]:
    async with connect(server) as connected:
        await topology.apply(connected)
        yield connected
