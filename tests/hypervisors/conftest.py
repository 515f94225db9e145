"""A stack per module: starting one costs a second."""

from collections.abc import AsyncGenerator

import pytest
import pytest_asyncio

from tests.agent.stack import Stack, stack_in
from tests.harness.places import short_directory


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def stack() -> AsyncGenerator[Stack]:
    with short_directory() as directory:
        async with stack_in(directory) as running:
            yield running


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def plain_stack() -> AsyncGenerator[Stack]:
    """On a host without control groups."""
    with short_directory() as directory:
        async with stack_in(directory, use_cgroups=False) as running:
            yield running


@pytest.fixture(params=["with control groups", "without control groups"])
def any_stack(request: pytest.FixtureRequest, stack: Stack, plain_stack: Stack) -> Stack:
    return stack if request.param == "with control groups" else plain_stack
