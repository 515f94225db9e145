"""A world per test, on a nats-server and a chunk store of its own."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest_asyncio

from cli.stack.nats import EmbeddedNats
from tests.checkpointer.world import World, a_world


@pytest_asyncio.fixture
async def world(nats_server: EmbeddedNats, tmp_path: Path) -> AsyncIterator[World]:
    async with a_world(nats_server.url, tmp_path) as world:
        yield world
