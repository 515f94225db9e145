"""The projector in the world: servers that go away, a second projector, a log that is not what it was."""

import asyncio
import os
import sys
from uuid import uuid4

import psycopg
import pytest

from cli.stack.nats import EmbeddedNats
from cli.stack.postgres import EmbeddedPostgres
from events.envelope import to_headers
from services.kit import topology
from services.kit.bus import Bus
from services.projector.rebuild import verify
from services.projector.status import status
from services.projector.writer import CHANNEL
from tests.harness import eventually
from tests.projector.stories import life, project, shop
from tests.projector.world import change, halted, projected, projecting, rows, say


async def test_events_become_rows_and_waiters_are_told(bus: Bus, database: str) -> None:
    async with (
        await psycopg.AsyncConnection.connect(database, autocommit=True) as listener,
        projecting(bus, database) as service,
    ):
        await listener.execute(f"LISTEN {CHANNEL}".encode())
        seq = await say(bus, shop(1))
        async for notice in listener.notifies(timeout=10):
            if int(notice.payload) >= seq:
                break
        else:
            pytest.fail("nobody was told")
        assert rows(database, "SELECT phase, status FROM intelligent_machines") == [("ended", "terminated")]
        assert (await service.health()).ok
        assert b"autovibe_projected_events_total" in service.metrics.text()
        assert (await status(bus.log, database)).running
    assert not (await status(bus.log, database)).running


async def test_a_second_projector_stands_by_and_takes_over_when_the_first_is_gone(bus: Bus, database: str) -> None:
    async with projecting(bus, database) as second_outlives, projecting(bus, database):

        async def one_leads() -> bool:
            return (await second_outlives.health()).ok

        await eventually(one_leads)
        await projected(bus, database, await say(bus, project("webshop")))
    async with projecting(bus, database) as first:
        await projected(bus, database, await say(bus, life("webshop", 1)))
        async with projecting(bus, database) as second:

            async def stands_by() -> bool:
                return "standby" in (await second.health()).parts[0].detail

            await eventually(stands_by)
            assert (await second.health()).ok
            await first.__aexit__(None, None, None)
            await projected(bus, database, await say(bus, life("webshop", 2)))
    assert (await verify(bus.log, database)).ok


async def test_a_database_that_dies_loses_nothing_and_is_caught_up_with(
    bus: Bus, database: str, postgres: EmbeddedPostgres
) -> None:
    async with projecting(bus, database) as service:
        await projected(bus, database, await say(bus, shop(1)))
        postgres.kill()

        async def noticed() -> bool:
            return not (await service.health()).ok

        seq = await say(bus, life("webshop", 7))
        await eventually(noticed)
        await postgres.start()
        await projected(bus, database, seq)
        assert (await verify(bus.log, database)).ok


async def test_a_log_that_dies_is_followed_again(bus: Bus, database: str, nats_server: EmbeddedNats) -> None:
    async with projecting(bus, database):
        await projected(bus, database, await say(bus, shop(1)))
        port = nats_server.port
        nats_server.kill()
        nats_server.config = type(nats_server.config)(port=port)
        await nats_server.start()
        await eventually(lambda: bus.nc.is_connected)
        await projected(bus, database, await say(bus, life("webshop", 7)))
        assert (await verify(bus.log, database)).ok


async def test_a_type_that_nobody_knows_halts_and_what_was_before_it_is_there(bus: Bus, database: str) -> None:
    async with projecting(bus, database) as service:
        seq = await say(bus, shop(1))
        await bus.js.publish(f"av.webshop.machine.{uuid4()}.MachineExploded", b"{}")
        stands = await halted(bus, database)
        assert (stands.position, stands.lag) == (seq, 1)
        assert "MachineExploded" in (stands.halted_reason or "")
        health = await service.health()
        assert not health.ok
        assert "MachineExploded" in health.parts[0].detail
        await say(bus, life("webshop", 7))
        assert (await status(bus.log, database)).position == seq
        report = await verify(bus.log, database)
        assert (report.ok, report.position) == (True, seq)


async def test_what_the_database_refuses_halts_at_that_event(bus: Bus, database: str) -> None:
    seq = await say(bus, shop(1))
    recorded = await bus.log.event(1)
    assert recorded is not None
    headers = to_headers(recorded.envelope) | {"Nats-Msg-Id": str(uuid4())}
    body = b'{"reason": "x", "later": 1e999999}'  # JSON to pydantic, too large a number for PostgreSQL
    await bus.js.publish("av.webshop.project.webshop.ProjectArchived", body, headers=headers)
    await say(bus, life("webshop", 7))
    async with projecting(bus, database):
        stands = await halted(bus, database)
    assert stands.position == seq
    assert f"seq {seq + 1} is refused by the database" in (stands.halted_reason or "")


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        ("UPDATE projection SET stream_created = '2020-01-01Z'", "the tables come from one made at 2020"),
        ("UPDATE projection SET hash = decode(repeat('ab', 32), 'hex')", "numbers were used again"),
        ("UPDATE projection SET position = position + 100000", "has no such row"),
    ],
)
async def test_tables_that_do_not_belong_to_this_log_are_not_written_on(
    bus: Bus, database: str, damage: str, reason: str
) -> None:
    async with projecting(bus, database):
        await projected(bus, database, await say(bus, shop(1)))
    change(database, damage)
    async with projecting(bus, database):
        assert reason in ((await halted(bus, database)).halted_reason or "")


async def test_a_log_that_was_made_anew_under_a_running_projector_halts_it(bus: Bus, database: str) -> None:
    async with projecting(bus, database):
        await projected(bus, database, await say(bus, shop(1)))
        await bus.js.delete_stream("LOG")
        await topology.apply(bus)
        await say(bus, shop(2))
        stands = await halted(bus, database)
    assert "the stream was made at" in (stands.halted_reason or "") or "ends at seq" in (stands.halted_reason or "")


async def test_a_projector_that_is_killed_again_and_again_does_everything_once(
    bus: Bus, database: str, nats_server: EmbeddedNats
) -> None:
    environment = {**os.environ, "NATS_URL": nats_server.url, "DATABASE_URL": database, "AUTOVIBE_HEALTH_PORT": "0"}
    saying = asyncio.create_task(say(bus, [*project("webshop"), *(it for n in range(40) for it in life("webshop", n))]))
    for _ in range(4):
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "services.projector", env=environment, stdout=asyncio.subprocess.DEVNULL
        )
        before = (await status(bus.log, database)).position

        async def moved(before: int = before) -> bool:
            return (await status(bus.log, database)).position > before

        try:
            await eventually(moved, timeout_s=30)
        finally:
            process.kill()
            await process.wait()
        if saying.done():
            break
    seq = await saying
    async with projecting(bus, database):
        await projected(bus, database, seq)
    assert (await verify(bus.log, database)).ok
