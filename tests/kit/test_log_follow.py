"""Following: in order, without a gap, across restarts, within milliseconds; a damaged log halts it."""

import asyncio
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cli.stack.nats import EmbeddedNats
from events import address
from events.envelope import Cause
from events.project import ProjectArchived, ProjectCreated, ProjectUpdated
from events.registry import UnknownType
from schema.streams import LOG, streams
from services.kit.bus import Bus
from services.kit.errors import LogGap, LogRegressed
from services.kit.log import Log, Write
from services.kit.log_follow import chooser, covering
from services.kit.message import RawMessage
from tests.harness import eventually

CAUSE = Cause("client:ann")


async def fill(bus: Bus, count: int, start: int = 0) -> None:
    await asyncio.gather(
        *(
            bus.log.append(Write(address.project(f"p{start + n}"), 0, (ProjectCreated(),)), cause=CAUSE)
            for n in range(count)
        )
    )


async def followers(bus: Bus) -> list[str]:
    names = cast("list[str]", (await bus.wire.api(f"CONSUMER.NAMES.{LOG}"))["consumers"])
    return [name for name in names if name.startswith("follow-")]


async def seqs(batches: AsyncGenerator[list[RawMessage]]) -> list[int]:
    return [message.seq async for batch in batches for message in batch]


@pytest.mark.parametrize("batch", [1, 7, 100, 5000])
async def test_everything_comes_once_in_order_for_any_batch_size(bus: Bus, batch: int) -> None:
    await fill(bus, 250)
    assert await seqs(bus.log.follow_raw(batch=batch, stop_at_end=True)) == list(range(1, 251))
    assert await seqs(bus.log.follow_raw(after=100, batch=batch, stop_at_end=True)) == list(range(101, 251))
    assert await seqs(bus.log.follow_raw(after=250, batch=batch, stop_at_end=True)) == []


async def test_an_empty_log_ends_at_once(bus: Bus) -> None:
    assert await seqs(bus.log.follow_raw(stop_at_end=True)) == []


async def test_a_filter_hears_only_what_it_names(bus: Bus) -> None:
    await fill(bus, 20)
    await bus.log.append(Write(address.project("p3"), 4, (ProjectUpdated(),)), cause=CAUSE)
    heard = [
        recorded.envelope.type
        async for batch in bus.log.follow(filters=["av.p3.>", "av.p4.project.*.ProjectCreated"], stop_at_end=True)
        for recorded in batch
    ]
    assert heard == ["ProjectCreated", "ProjectCreated", "ProjectUpdated"]


async def test_what_is_appended_is_heard_within_milliseconds(bus: Bus) -> None:
    delays_ms: list[float] = []
    async with aclosing(bus.log.follow()) as batches:
        for n in range(30):
            started = time.perf_counter()
            await fill(bus, 1, n)
            assert [recorded.seq for recorded in await anext(batches)] == [n + 1]
            delays_ms.append((time.perf_counter() - started) * 1000)
    assert sorted(delays_ms)[15] < 25


async def test_a_follower_survives_kill_9_of_the_server(server: EmbeddedNats, bus: Bus) -> None:
    heard: list[int] = []

    async def follow() -> None:
        async for batch in bus.log.follow():
            heard.extend(recorded.seq for recorded in batch)

    following = asyncio.create_task(follow())
    for round_number in range(3):
        await fill(bus, 20, 100 * round_number)
        await eventually(lambda n=round_number: len(heard) == 20 * (n + 1))
        server.kill()
        await server.start()
    await fill(bus, 20, 1000)
    await eventually(lambda: heard == list(range(1, 81)))
    following.cancel()


async def test_a_follower_whose_consumer_is_deleted_makes_another(bus: Bus) -> None:
    heard: list[int] = []

    async def follow() -> None:
        async for batch in bus.log.follow():
            heard.extend(recorded.seq for recorded in batch)

    following = asyncio.create_task(follow())
    await fill(bus, 5)
    await eventually(lambda: len(heard) == 5)
    (name,) = await followers(bus)
    await bus.wire.api(f"CONSUMER.DELETE.{LOG}.{name}")
    await fill(bus, 5, 100)
    await eventually(lambda: heard == list(range(1, 11)))
    following.cancel()


async def test_a_follower_leaves_no_consumer_behind(bus: Bus) -> None:
    await fill(bus, 3)
    await seqs(bus.log.follow_raw(stop_at_end=True))

    async def none_left() -> bool:
        return await followers(bus) == []

    await eventually(none_left)
    assert len(bus.nc.raw_handlers) == 1


async def test_a_log_that_ends_before_the_position_halts_the_follower(bus: Bus) -> None:
    await fill(bus, 3)
    with pytest.raises(LogRegressed, match="ends at seq 3, but seq 5"):
        await seqs(bus.log.follow_raw(after=5))


async def test_a_log_that_is_made_anew_halts_the_follower(bus: Bus) -> None:
    await fill(bus, 5)
    async with aclosing(bus.log.follow()) as batches:
        while (await anext(batches))[-1].seq < 5:
            pass
        await bus.wire.api(f"STREAM.DELETE.{LOG}")
        config = next(stream.config() for stream in streams() if stream.name == LOG)
        await bus.wire.api(f"STREAM.CREATE.{LOG}", config)
        with pytest.raises(LogRegressed):
            await asyncio.wait_for(anext(batches), 10)


async def test_a_missing_event_halts_the_follower_after_what_stands_before_it(bus: Bus) -> None:
    await bus.wire.api("STREAM.CREATE.HOLED", {"name": "HOLED", "subjects": ["av2.>"], "allow_direct": True})
    for n in range(5):
        await bus.js.publish(f"av2.{n}", b"{}")
    await bus.wire.api("STREAM.MSG.DELETE.HOLED", {"seq": 3})
    heard: list[int] = []

    async def read() -> None:
        async for batch in Log(bus.wire, "HOLED").follow_raw(stop_at_end=True):
            heard.extend(message.seq for message in batch)

    with pytest.raises(LogGap, match="skips from seq 2 to 4"):
        await read()
    assert heard == [1, 2]


async def test_an_event_of_an_unknown_type_halts_a_reader(bus: Bus) -> None:
    await fill(bus, 1)
    await bus.js.publish(
        "av.p.project.p.ProjectSold",
        b"{}",
        headers={"ce-id": "6f1d3c2e-9a47-5d0b-8a53-3f7f0c1f2a90", "ce-time": "2026-01-01T00:00:00Z"},
    )
    with pytest.raises(UnknownType):
        async for _ in bus.log.follow(after=1):
            pass


async def test_a_slow_reader_is_given_no_more_than_it_can_hold(bus: Bus) -> None:
    await fill(bus, 400)
    heard: list[int] = []
    async with aclosing(bus.log.follow_raw(batch=50)) as batches:
        async for batch in batches:
            heard += [message.seq for message in batch]
            await bus.nc.flush()
            assert len(batch) <= 50
            if len(heard) == 400:
                break
    assert heard == list(range(1, 401))


async def test_a_sequence_number_that_comes_again_halts_the_follower(bus: Bus) -> None:
    await fill(bus, 2)
    async with aclosing(bus.log.follow_raw()) as batches:
        while (await anext(batches))[-1].seq < 2:
            pass
        (inbox,) = [sid for sid in bus.nc.raw_handlers if sid != min(bus.nc.raw_handlers)]
        bus.nc.raw_handlers[inbox](b"av.p.project.p.ProjectCreated", b"$JS.ACK.LOG.c.1.2.2.0.0", b"", b"{}")
        with pytest.raises(LogRegressed, match="ends at seq 2, but seq 2"):
            await anext(batches)


@pytest.mark.parametrize(
    ("filters", "asked"),
    [
        ((), ""),
        (("av.*.machine.*.MachineEnded",), "av.*.machine.*.MachineEnded"),
        (("av.*.credential.*.CredentialIssued", "av.*.credential.*.CredentialRevoked"), "av.*.credential.*.*"),
        (("av.a.machine.m.>", "av.a.budget.m.>", "av.a.checkpoint.>"), "av.a.*.>"),
        (("av.a.>", "av.b.>"), ""),
        (("av.*.machine.*.MachineEnded", "av.*.budget.*.BudgetRequested"), ""),
    ],
)
def test_the_server_is_asked_for_one_filter_that_lets_all_through(filters: tuple[str, ...], asked: str) -> None:
    assert covering(filters) == asked


@given(st.lists(st.lists(st.sampled_from(["a", "b", "*"]), min_size=2, max_size=4), min_size=2, max_size=4), st.data())
def test_what_any_filter_lets_through_the_covering_one_does_too(drawn: list[list[str]], data: st.DataObject) -> None:
    filters = [".".join(["av", *tokens, *data.draw(st.sampled_from([[], [">"]]))]) for tokens in drawn]
    one = chooser([covering(filters) or ">"])
    several = chooser(filters)
    subject = b".".join([b"av", *data.draw(st.lists(st.sampled_from([b"a", b"b", b"c"]), min_size=1, max_size=6))])
    assert one(subject) or not several(subject)


async def test_several_filters_give_what_each_lets_through_and_nothing_else(bus: Bus) -> None:
    for slug in ("one", "two", "three"):
        await bus.log.append(Write(address.project(slug), 0, (ProjectCreated(), ProjectArchived())), cause=CAUSE)
    filters = ["av.one.project.*.ProjectCreated", "av.two.project.two.>", "av.nobody.machine.*.MachineEnded"]
    heard = [
        (recorded.envelope.address.project, recorded.envelope.type)
        async for batch in bus.log.follow(0, filters, stop_at_end=True)
        for recorded in batch
    ]
    assert heard == [("one", "ProjectCreated"), ("two", "ProjectCreated"), ("two", "ProjectArchived")]
