"""The tables can be made again from the log at any time, and it is known whether they are what the log says."""

import asyncio

import psycopg
import pytest

from services.kit.bus import Bus
from services.projector.rebuild import SCHEMA, AlreadyRebuilding, rebuild, verify
from services.projector.shadow import Shadow
from services.projector.status import status
from tests.projector.stories import shop
from tests.projector.world import change, projected, projecting, rows, say


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


async def test_only_one_rebuild_at_a_time_and_the_second_disturbs_nothing(bus: Bus, database: str) -> None:
    async with projecting(bus, database):
        await projected(bus, database, await say(bus, shop(1)))
        shadow = Shadow(database, SCHEMA)
        try:
            assert shadow.claim()
            shadow.make()
            with pytest.raises(AlreadyRebuilding):
                await verify(bus.log, database)
            assert rows(database, "SELECT to_regclass('rebuild.events') IS NOT NULL") == [(True,)]
        finally:
            shadow.close()
        assert (await verify(bus.log, database)).ok
