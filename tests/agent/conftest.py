"""A stack per module: starting one costs a second."""

from collections.abc import AsyncGenerator

import pytest_asyncio

from tests.agent.stack import Stack, stack_in
from tests.harness.places import short_directory


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def stack() -> AsyncGenerator[Stack]:
    with short_directory() as directory:
        async with stack_in(directory) as running:
            yield running
