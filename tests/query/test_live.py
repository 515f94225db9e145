"""What goes on: events and output as they come, and what is left behind when a reader goes."""

import asyncio
import json

from cli.stack.nats import EmbeddedNats
from events import address
from events.machine import MachineProgressed
from events.project import ProjectUpdated
from events.words import Role
from tests.harness import eventually
from tests.query.client import Stream
from tests.query.world import OTHERS, SHOP, VIEWER, World, a_world

LOG, OUTPUT = "LOG", "OUTPUT"


async def consumers(world: World, stream: str) -> int:
    return (await world.bus.js.stream_info(stream)).state.consumer_count


async def test_events_come_as_they_are_said_and_a_reader_goes_on_where_it_was(world: World) -> None:
    await world.project(SHOP)
    after = await world.bus.log.end()
    path = f"/api/v1/events/stream?project={SHOP}"
    async with world.client(VIEWER).stream(f"{path}&after={after}") as stream:
        assert (stream.status, stream.headers["content-type"].partition(";")[0]) == (200, "text/event-stream")
        first = await world.say(address.project(SHOP), ProjectUpdated(description="one"))
        event = await stream.event()
        assert (event["seq"], event["type"], event["body"]) == (first, "ProjectUpdated", {"description": "one"})
    second = await world.say(address.project(SHOP), ProjectUpdated(description="two"))
    async with world.client(VIEWER).stream(path, {"Last-Event-ID": str(first)}) as stream:
        assert (await stream.event())["seq"] == second
    await world.settled()
    assert (await world.client().get(f"/api/v1/events/{second}")).json.keys() == event.keys()


async def test_a_stream_without_a_beginning_begins_now(world: World) -> None:
    await world.project(SHOP)
    async with world.client(VIEWER).stream("/api/v1/events/stream") as stream:
        assert await stream.line() == b": here"
        await world.project(OTHERS)
        seq = await world.say(address.project(SHOP), ProjectUpdated(description="now"))
        assert (await stream.event())["seq"] == seq


async def test_a_machines_stream_has_its_checkpoints_and_nobody_elses(world: World) -> None:
    await world.project(SHOP)
    mine, other = await world.machine(SHOP), await world.machine(SHOP)
    await world.checkpoint(SHOP, other, machine=other)
    await world.checkpoint(SHOP, mine, machine=mine)
    await world.end(SHOP, mine)
    async with world.client(VIEWER).stream(f"/api/v1/events/stream?project={SHOP}&machine={mine}&after=0") as stream:
        types = [(event := await stream.event())["type"] for _ in range(4)]
        assert types == ["MachineRequested", "CheckpointTaken", "UsageRecorded", "MachineEnded"]
        assert event["aggregate_id"] == str(mine)


async def test_a_reader_that_goes_leaves_nothing_behind(world: World) -> None:
    await world.project(SHOP)
    machine_id = await world.machine(SHOP)
    await world.settled()  # the projector follows the log from here on, and is counted
    before = await consumers(world, LOG), await consumers(world, OUTPUT)
    for path, streams in (("/api/v1/events/stream", (1, 0)), (f"/api/v1/machines/{machine_id}/logs?follow=1", (1, 1))):
        async with world.client().stream(path) as stream:
            assert stream.status == 200
            # All of them: one that is asked for and given up in the same breath may live on for the server's 30 s.
            await eventually(lambda streams=streams: _more(world, before, streams))
        await eventually(lambda: _no_more(world, before))
    assert b"autovibe_api_streams_open 0.0" in (await world.client().get("/metrics")).body


async def _more(world: World, before: tuple[int, int], streams: tuple[int, int]) -> bool:
    found = await consumers(world, LOG), await consumers(world, OUTPUT)
    return found[0] >= before[0] + streams[0] and found[1] >= before[1] + streams[1]


async def _no_more(world: World, before: tuple[int, int]) -> bool:
    """Fewer is well too: those of a service's start may still have been going when they were counted."""
    return await consumers(world, LOG) <= before[0] and await consumers(world, OUTPUT) <= before[1]


async def test_a_silent_stream_says_that_it_is_there(nats_server: EmbeddedNats, database: str) -> None:
    async with a_world(nats_server.url, database, query_keep_alive_s=0.05) as world:
        await world.project(SHOP)
        machine_id = await world.machine(SHOP)
        async with world.client().stream("/api/v1/events/stream") as stream:
            await _until(stream, b": still here")
        async with world.client().stream(f"/api/v1/machines/{machine_id}/logs?follow=1") as stream:
            assert await stream.line() == b""


async def _until(stream: Stream, wanted: bytes) -> None:
    while (line := await stream.line()) != wanted:
        assert line is not None


async def test_a_stream_ends_with_its_key_and_with_the_service(nats_server: EmbeddedNats, database: str) -> None:
    async with a_world(nats_server.url, database) as world:
        await world.project(SHOP)
        credential_id = await world.key("brief", Role.VIEWER, [SHOP])
        await eventually(lambda: _answers(world, "brief"))
        async with world.client("brief").stream("/api/v1/events/stream") as stream:
            await world.revoke(credential_id)
            while await stream.line() is not None:
                pass
        ending = world.client().stream("/api/v1/events/stream")
        stream = await ending.__aenter__()
        assert await stream.line() == b": here"
    assert await stream.line() == b""
    assert await stream.line() is None
    await ending.__aexit__(None, None, None)


async def _answers(world: World, key: str) -> bool:
    return (await world.client(key).get("/api/v1/events/types")).status == 200


async def test_there_is_a_limit_to_streams_of_one_key(nats_server: EmbeddedNats, database: str) -> None:
    async with (
        a_world(nats_server.url, database, query_streams_per_key_max=1) as world,
        world.client().stream("/api/v1/events/stream") as stream,
    ):
        assert await stream.line() == b": here"
        refused = await world.client().get("/api/v1/events/stream")
        assert (refused.status, refused.code) == (503, "busy")
        async with world.client(VIEWER).stream("/api/v1/events/stream") as other:
            assert other.status == 200


async def test_output_is_followed_to_the_machines_end_and_read_again_afterwards(world: World) -> None:
    await world.project(SHOP)
    machine_id = await world.machine(SHOP)
    out = address.output(SHOP, machine_id, 1)
    path = f"/api/v1/machines/{machine_id}/logs"

    async def write(text: str) -> None:
        line = {"n": 1, "s": "stdout", "t": text, "at": "2026-01-01T00:00:00Z", "seq": "mine", "epoch": "mine"}
        await world.bus.js.publish(out, json.dumps([line]).encode())

    await write("early")
    async with world.client(VIEWER).stream(f"{path}?follow=1") as stream:
        early = json.loads(await stream.line() or b"")
        assert (early["t"], early["seq"], early["epoch"]) == ("early", 1, 1)
        await write("late")
        assert json.loads(await stream.line() or b"")["t"] == "late"
        await world.bus.js.publish(out, b"\xff not JSON")
        assert "no output" in json.loads(await stream.line() or b"")["t"]
        await world.say(address.machine(SHOP, machine_id), MachineProgressed(epoch=1, message="nearly"))
        await write("last words")
        await world.end(SHOP, machine_id)
        rest = [line async for line in _rest(stream)]
        assert [json.loads(line)["t"] for line in rest] == ["last words"]
    again = (await world.client(VIEWER).get(path)).body.splitlines()
    assert [json.loads(line)["t"] for line in again if b"no output" not in line] == ["early", "late", "last words"]
    later = (await world.client(VIEWER).get(path, after=3)).body.splitlines()
    assert [json.loads(line)["t"] for line in later] == ["last words"]


async def test_an_agents_own_stream_is_read_apart_from_what_people_read_of_it(world: World) -> None:
    await world.project(SHOP)
    machine_id = await world.machine(SHOP)
    lines = [
        {"n": n, "s": source, "t": text, "at": "2026-01-01T00:00:00Z"}
        for n, source, text in ((1, "stdout", "tool: Write a.py"), (2, "raw", '{"type":"assistant"}'))
    ]
    await world.bus.js.publish(address.output(SHOP, machine_id, 1), json.dumps(lines).encode())
    path = f"/api/v1/machines/{machine_id}/logs"
    for asked, sources in ((path, ["stdout"]), (f"{path}?raw=1", ["raw"])):
        body = (await world.client(VIEWER).get(asked)).body
        assert [json.loads(line)["s"] for line in body.splitlines() if line] == sources


async def _rest(stream: Stream):  # noqa: ANN202  # an async generator of lines
    while (line := await stream.line()) is not None:
        if line:
            yield line


async def test_a_beginning_that_is_not_there_yet_is_refused(world: World) -> None:
    for path, headers in (
        ("/api/v1/events/stream?after=99999999", None),
        ("/api/v1/events/stream", {"Last-Event-ID": "x"}),
        ("/api/v1/events/stream?id=x", None),
        ("/api/v1/events/stream?project=a.b", None),
        ("/api/v1/events/stream?project=%3E", None),
    ):
        answer = await world.client().get(path, headers)
        assert (answer.status, answer.code) == (400, "bad_parameter"), path


async def test_many_readers_see_every_event(world: World) -> None:
    await world.project(SHOP)
    after = await world.bus.log.end()

    async def read() -> list[int]:
        async with world.client().stream(f"/api/v1/events/stream?after={after}") as stream:
            return [(await stream.event())["seq"] for _ in range(30)]

    async with asyncio.TaskGroup() as tasks:
        readers = [tasks.create_task(read()) for _ in range(8)]
        for count in range(30):
            await world.say(address.project(SHOP), ProjectUpdated(description=str(count)))
    assert [reader.result() for reader in readers] == [list(range(after + 1, after + 31))] * 8
