"""A world per test, on a nats-server of its own."""

from collections.abc import AsyncIterator

import pytest_asyncio

from cli.stack.nats import EmbeddedNats
from tests.spawner.world import World, a_world


@pytest_asyncio.fixture
async def world(nats_server: EmbeddedNats) -> AsyncIterator[World]:
    async with a_world(nats_server.url) as world:
        yield world
