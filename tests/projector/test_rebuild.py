"""The tables can be made again from the log at any time, and it is known whether they are what the log says."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import psycopg
import pytest_asyncio

from cli.stack.nats import EmbeddedNats
from events.envelope import Cause
from services.kit import topology
from services.kit.bus import Bus
from services.kit.log import Write
from services.kit.settings import BusSettings
from services.projector.app import ProjectorService, ProjectorSettings, create_app
from services.projector.rebuild import rebuild, verify
from services.projector.status import status
from tests.harness import eventually
from tests.projector.histories import Said
from tests.projector.stories import shop

HISTORY = Cause("test")


@pytest_asyncio.fixture
async def bus(nats_server: EmbeddedNats) -> AsyncIterator[Bus]:
    async with Bus.connect(BusSettings(nats_url=nats_server.url), name="test") as made:
        await topology.apply(made)
        yield made


def settings(database: str) -> ProjectorSettings:
    return ProjectorSettings(database_url=database, projector_check_s=0.1, projector_retry_s_max=0.2)


@asynccontextmanager
async def projecting(bus: Bus, database: str) -> AsyncIterator[ProjectorService]:
    async with create_app(bus, settings(database)) as service:
        yield service


async def say(bus: Bus, history: list[Said]) -> int:
    """Append events one after the other; returns the seq of the last."""
    seqs: dict[str, int] = {}
    seq = 0
    for item in history:
        key = str(item.address)
        expected = seqs.get(key)
        if expected is None:
            expected = (await bus.log.load(item.address)).seq
        seq = seqs[key] = (await bus.log.append(Write(item.address, expected, (item.event,)), cause=item.cause)).seq
    return seq


async def projected(bus: Bus, database: str, seq: int) -> None:
    async def reached() -> bool:
        return (await status(bus.log, database)).position >= seq

    await eventually(reached)


def change(database: str, statement: str) -> None:
    with psycopg.connect(database) as connection:
        connection.execute(statement.encode())


async def test_tables_that_are_what_the_log_says_are_verified_and_changed_by_nothing(bus: Bus, database: str) -> None:
    async with projecting(bus, database):
        seq = await say(bus, shop())
        await projected(bus, database, seq)
        report = await verify(bus.log, database)
    assert report.ok
    assert (report.position, report.swapped) == (seq, False)
    assert report.hash == (await status(bus.log, database)).hash


async def test_a_row_that_somebody_changed_is_found_and_put_right_by_a_rebuild(bus: Bus, database: str) -> None:
    async with projecting(bus, database):
        seq = await say(bus, shop())
        await projected(bus, database, seq)
        change(database, "UPDATE resource_budgets SET used_amount = 0 WHERE scope = 'hub' AND resource_type = 'money'")
        change(database, "DELETE FROM checkpoints WHERE checkpoint_type = 'genesis'")
        change(database, "UPDATE events SET body = body || '{\"goal\": \"other\"}' WHERE type = 'MachineRequested'")

        report = await verify(bus.log, database)
        found = {difference.table: difference for difference in report.differences}
        assert set(found) == {"resource_budgets", "checkpoints", "events"}
        assert (found["resource_budgets"].different, found["checkpoints"].only_log, found["events"].different) == (
            1,
            1,
            2,
        )

        assert not (await rebuild(bus.log, database)).swapped
        assert (await rebuild(bus.log, database, accept_differences=True)).swapped
        assert (await verify(bus.log, database)).ok

        more = await say(bus, [item for item in shop(3) if item not in shop(2)])
        await projected(bus, database, more)
        assert (await verify(bus.log, database)).ok


async def test_a_rebuild_while_events_arrive_misses_none(bus: Bus, database: str) -> None:
    async with projecting(bus, database):
        await projected(bus, database, await say(bus, shop(1)))
        async with asyncio.TaskGroup() as group:
            saying = group.create_task(say(bus, [item for item in shop(4) if item not in shop(1)]))
            for _ in range(3):
                assert (await rebuild(bus.log, database)).swapped
        await projected(bus, database, saying.result())
        assert (await verify(bus.log, database)).ok


async def test_readers_may_read_rebuilt_tables(bus: Bus, database: str) -> None:
    async with projecting(bus, database):
        await projected(bus, database, await say(bus, shop(1)))
        assert (await rebuild(bus.log, database)).swapped
    reader = database.replace("postgres@", "autovibe_reader@")
    with psycopg.connect(reader) as connection:
        assert connection.execute("SELECT count(*) FROM intelligent_machines").fetchone() == (1,)
        rows = connection.execute(
            "SELECT indexname FROM pg_indexes WHERE schemaname = 'public' AND tablename = 'events'"
        )
        assert ("events_by_type",) in rows.fetchall()
