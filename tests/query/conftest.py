"""A query service per test, with everything real behind it."""

from collections.abc import AsyncIterator

import pytest_asyncio

from cli.stack.nats import EmbeddedNats
from tests.query.world import World, a_world


@pytest_asyncio.fixture
async def world(nats_server: EmbeddedNats, database: str) -> AsyncIterator[World]:
    async with a_world(nats_server.url, database) as world:
        yield world
