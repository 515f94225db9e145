"""Diffs, letters, credentials, and what happens when what stands behind the service goes away."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from uuid import uuid4

import psycopg
import pytest
from nats.aio.msg import Msg

from cli.stack.nats import EmbeddedNats, NatsConfig
from cli.stack.postgres import EmbeddedPostgres
from events import address
from events.checkpoint import CheckpointPurged
from events.credential import CredentialIssued
from events.ids import HUB
from events.words import Role
from services.kit.dead import bury
from services.kit.errors import Refused
from services.kit.message import RawMessage
from services.query.database import Database
from services.query.problems import HttpProblem
from services.query.server import serving
from snapshots.capture import capture
from snapshots.directory import DirectoryChunkStore
from tests.harness import eventually, free_port
from tests.query.world import ADMIN, OPERATOR, OTHER, OTHERS, SHOP, VIEWER, World, a_world


async def test_a_diff_says_what_changed_from_one_checkpoint_to_the_next(
    nats_server: EmbeddedNats, database: str, tmp_path: Path
) -> None:
    digests = await asyncio.to_thread(_two_snapshots, tmp_path)
    async with a_world(nats_server.url, database, store=tmp_path / "store") as world:
        old, new = uuid4(), uuid4()
        await world.project(SHOP)
        await world.checkpoint(SHOP, old, snapshot=digests[0])
        await world.checkpoint(SHOP, new, snapshot=digests[1], parent=old)
        await world.settled()
        client, path = world.client(VIEWER), "/api/v1/checkpoints/diff"
        found = (await client.get(path, old=old, new=new)).json
        assert (found["old"], found["new"], found["truncated"]) == (str(old), str(new), False)
        changes = {change["path"].rpartition("/")[2]: change["kind"] for change in found["changes"]}
        assert changes == {"added.txt": "added", "changed.txt": "changed", "removed.txt": "removed"}
        assert "-one\n+two\n" in found["text"]
        assert (await client.get(path, old=str(new)[:13])).json == found  # with its parent
        stat = (await client.get(path, old=old, new=new, stat=1)).json
        assert stat["text"] == ""
        assert [change["path"] for change in stat["changes"]] == [change["path"] for change in found["changes"]]
        alone = await client.get(path, old=old)
        assert (alone.status, alone.code) == (409, "no_parent")
        missing = await client.get(path, old=new, new=(await _genesis(world)))
        assert (missing.status, missing.code) == (409, "missing_chunks")
        await world.say(address.checkpoint(SHOP, old), CheckpointPurged(reason="old"))
        await world.settled()
        purged = await client.get(path, old=new)
        assert (purged.status, purged.code) == (409, "purged")
        assert (await world.client(OTHER).get(path, old=new)).status == 404


async def _genesis(world: World) -> str:
    return (await world.client().get(f"/api/v1/projects/{SHOP}")).json["initial_checkpoint_uuid"]


def _two_snapshots(directory: Path) -> tuple[str, str]:
    work = directory / "work"
    work.mkdir()
    (work / "same.txt").write_text("same\n")
    (work / "changed.txt").write_text("one\n")
    (work / "removed.txt").write_text("gone\n")
    with DirectoryChunkStore(directory / "store") as store:
        first = capture({"workspace": work}, store).digest
        (work / "changed.txt").write_text("two\n")
        (work / "removed.txt").unlink()
        (work / "added.txt").write_text("new\n")
        return first, capture({"workspace": work}, store).digest


async def test_without_a_store_a_diff_is_refused_with_what_to_set(world: World) -> None:
    answer = await world.client().get("/api/v1/checkpoints/diff", old="ffffffff")
    assert (answer.status, answer.code) == (503, "unavailable")
    assert "AUTOVIBE_STORE" in answer.json["remedy"]


async def test_refusals_of_the_door_are_listed_for_whose_they_are(world: World) -> None:
    nc = world.bus.nc
    for slug in (SHOP, OTHERS):
        for number in range(3):
            await nc.publish(f"in.{slug}.machine.{uuid4()}.Nonsense{number}", b"{}")
    await nc.publish("in.webshop", b"{}")

    async def listed() -> int:
        return len(await world.client().items("/api/v1/events/rejected"))

    await eventually(lambda: _equals(listed, 7))
    mine = await world.client(VIEWER).items("/api/v1/events/rejected")
    theirs = await world.client(OTHER).items("/api/v1/events/rejected", limit=2)
    assert {record["subject"].split(".")[1] for record in mine} == {SHOP}
    assert [record["subject"].split(".")[1] for record in theirs] == [OTHERS, OTHERS]
    assert theirs[0]["seq"] > theirs[1]["seq"]
    assert theirs[0]["problem"]["code"] == "unknown_type"
    assert await world.client(VIEWER).items("/api/v1/events/rejected", project=SHOP) == mine


async def _equals(count: Callable[[], Awaitable[int]], wanted: int) -> bool:
    return await count() == wanted


async def test_dead_letters_are_listed_and_retried_by_number(world: World) -> None:
    message = RawMessage(7, b"in.webshop.machine.x.Y", b"", b"{}", 0)
    await bury(world.bus, service="intake", durable="nobody", stream="IN", message=message, attempts=3, error="bang")
    [letter] = await world.client().items("/api/v1/events/dead")
    assert (letter["id"], letter["service"], letter["attempts"], letter["error"]) == (1, "intake", 3, "bang")
    for name in ("2", "0", "x", "99999999999999999999", "-1"):
        answer = await world.client().post(f"/api/v1/events/dead/{name}/retry", {})
        assert (answer.status, answer.code) == (404, "not_found"), name

    async def taken(message: Msg) -> None:
        await message.respond(b'{"error": "again"}' if failing else b"{}")

    failing = True
    await world.bus.nc.subscribe("retry.nobody", cb=taken)
    failed = await world.client().post("/api/v1/events/dead/1/retry", {})
    assert (failed.status, failed.code) == (409, "failed_again")
    failing = False
    done = await world.client().post("/api/v1/events/dead/1/retry", {})
    assert (done.status, done.json["subject"]) == (202, "in.webshop.machine.x.Y")
    assert await world.client().items("/api/v1/events/dead") == []


async def test_credentials_are_listed_without_secrets_and_machines_only_when_asked(world: World) -> None:
    revoked = await world.key("gone", Role.VIEWER)
    await world.revoke(revoked)
    machine = CredentialIssued(kind="machine", name="m", role=Role.VIEWER, machine_id=uuid4(), epoch=1)
    await world.say(address.credential(HUB, uuid4()), machine)
    await world.settled()
    shown = await world.client().get("/api/v1/credentials")
    assert sorted(item["name"] for item in shown.json["items"]) == sorted([ADMIN, OPERATOR, VIEWER, OTHER])
    everything = await world.client().get("/api/v1/credentials", all=1)
    assert len(everything.json["items"]) == 6
    assert b"sha256" not in everything.body


async def test_the_reader_can_read_and_nothing_else(database: str) -> None:
    async with Database(database, connections_max=1, statement_timeout_ms=300).opened() as reader:
        assert await reader.one("SELECT current_user::text, 1", {}) == ("autovibe_reader", 1)
        for statement in (
            "DELETE FROM events",
            "CREATE TABLE t (x int)",
            "SET default_transaction_read_only = off; CREATE TEMPORARY TABLE t (x int)",
        ):
            with pytest.raises(psycopg.Error):
                await reader.rows(statement, {})
        with pytest.raises(HttpProblem) as slow:
            await reader.rows("SELECT pg_sleep(5)", {})
        assert (slow.value.status, slow.value.code) == (503, "too_slow")
        assert await reader.one("SELECT 1", {}) == (1,)


async def test_a_restart_of_the_database_is_seen_in_health_and_survived(
    world: World, postgres: EmbeddedPostgres
) -> None:
    await world.project(SHOP)
    await world.settled()
    await asyncio.gather(*(world.client().get("/api/v1/status") for _ in range(8)))
    async with await psycopg.AsyncConnection.connect(postgres.dsn(), autocommit=True) as admin:
        await admin.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name ~ 'query'")
    answers = await asyncio.gather(*(world.client().get("/api/v1/status") for _ in range(8)))
    assert {answer.status for answer in answers} == {200}
    await eventually(lambda: _healthy(world))


async def _healthy(world: World) -> bool:
    return (await world.client("").get("/health")).status == 200


async def test_a_bus_that_is_away_makes_it_unhealthy_and_reads_go_on(short_tmp: Path, database: str) -> None:
    # With a port of its own: one that the server chooses is another one after the restart.
    nats = EmbeddedNats(short_tmp, NatsConfig(port=free_port()))
    async with nats, a_world(nats.url, database) as world:
        await world.project(SHOP)
        await world.settled()
        nats.kill()

        async def unhealthy() -> bool:
            answer = await world.client("").get("/health")
            return answer.status == 503 and answer.json["parts"]["bus"] is False

        await eventually(unhealthy)
        assert len(await world.client(VIEWER).items("/api/v1/projects")) == 1
        command = await world.client(OPERATOR).post(f"/api/v1/projects/{SHOP}/archive", {})
        assert (command.status, command.code) == (503, "unavailable")
        assert (await world.client().get("/api/v1/status")).status == 503
        await nats.start()
        await eventually(lambda: _healthy(world))


async def test_a_port_that_is_taken_is_said_with_what_to_set() -> None:
    async def app(scope: object, receive: object, send: object) -> None:
        del scope, receive, send

    async with serving(app, "127.0.0.1", 0, connections_max=10) as port:
        with pytest.raises(Refused, match="AUTOVIBE_QUERY_PORT"):
            async with serving(app, "127.0.0.1", port, connections_max=10):
                pass


async def test_origins_are_allowed_only_where_they_are_set(nats_server: EmbeddedNats, database: str) -> None:
    origin = {"Origin": "https://dashboard.example"}
    async with a_world(nats_server.url, database, query_cors_origins=("https://dashboard.example",)) as world:
        allowed = await world.client().get("/api/v1/projects", origin)
        assert allowed.headers["access-control-allow-origin"] == "https://dashboard.example"
        other = await world.client().get("/api/v1/projects", {"Origin": "https://evil.example"})
        assert "access-control-allow-origin" not in other.headers
