"""Fixtures: a nats-server per test, a PostgreSQL per worker, a database per test."""

import asyncio
import importlib.util
import inspect
from collections.abc import AsyncIterator, Coroutine, Iterator
from pathlib import Path
from typing import TypeVar
from uuid import uuid4

import pytest
import pytest_asyncio

from cli.stack.nats import EmbeddedNats
from cli.stack.postgres import EmbeddedPostgres, PostgresConfig
from tests.harness.places import short_directory

T = TypeVar("T")

# Nothing here outlives its test, so nothing has to survive a power cut.
THROWAWAY = PostgresConfig(
    settings={"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off", "shared_buffers": "32MB"}
)


@pytest.fixture
def short_tmp() -> Iterator[Path]:
    """A directory whose path leaves room for a unix socket's name."""
    with short_directory() as directory:
        yield directory


@pytest_asyncio.fixture
async def nats_server() -> AsyncIterator[EmbeddedNats]:
    """A nats-server of the test's own, durable JetStream, no authentication: connect to `nats_server.url`."""
    with short_directory() as directory:
        async with EmbeddedNats(directory) as server:
            yield server


@pytest.fixture(scope="session")
def postgres() -> Iterator[EmbeddedPostgres]:
    """A PostgreSQL of this worker's own. Ask for `database` unless the test is about the server."""
    with short_directory() as directory:
        server = EmbeddedPostgres(directory, THROWAWAY)
        _finish(server.start())
        try:
            yield server
        finally:
            server.kill()
            _finish(server.stop())


@pytest.fixture(scope="session")
def template_database(postgres: EmbeddedPostgres) -> str:
    """The name of a database with all migrations applied, to which nobody is connected."""
    name = "migrated"
    _finish(postgres.create_database(name))
    if importlib.util.find_spec("schema.migrations") is not None:
        applied = importlib.import_module("schema.migrations").apply(postgres.dsn(name))
        if inspect.iscoroutine(applied):
            _finish(applied)
    return name


@pytest_asyncio.fixture
async def database(postgres: EmbeddedPostgres, template_database: str) -> AsyncIterator[str]:
    """The URL of a fresh, migrated database of the test's own."""
    name = f"test_{uuid4().hex}"
    await postgres.create_database(name, template=template_database)
    yield postgres.dsn(name)
    await postgres.drop_database(name)


def _finish(work: Coroutine[None, None, T]) -> T:
    """Run to the end on a loop of its own: a session's fixture outlives every test's loop."""
    loop = asyncio.new_event_loop()
    try:
        return loop.run_until_complete(work)
    finally:
        loop.close()
