"""Appending: one winner, all or nothing, nothing lost or doubled whatever happens to the server."""

import asyncio
from collections import Counter
from collections.abc import Awaitable
from uuid import UUID

import pytest

from cli.stack.nats import EmbeddedNats
from events import address, fresh
from events.address import Address
from events.envelope import Cause, to_headers
from events.project import ProjectCreated, ProjectUpdated
from schema.streams import MIB, Sizes
from services.kit import log_append, topology
from services.kit.bus import Bus
from services.kit.errors import Conflict, IdReused, LogFull, Refused, Transient
from services.kit.log import Appended, Write
from tests.harness import eventually
from tests.kit.conftest import connect

CAUSE = Cause("client:ann", reason="because of ä, 100 % and\r\nX-Forged: yes")


def created(name: str, expected: int = 0, **fields: object) -> Write:
    return Write(address.project(name), expected, (ProjectCreated.model_validate(fields),))


async def test_what_is_appended_is_what_is_loaded(bus: Bus) -> None:
    first = await bus.log.append(created("webshop", description="Grüße"), cause=CAUSE)
    second = await bus.log.append(
        Write(address.project("webshop"), first.seq, (ProjectUpdated(description="b"), ProjectUpdated())), cause=CAUSE
    )
    history = await bus.log.load(address.project("webshop"))
    assert [recorded.event for recorded in history.events] == [
        ProjectCreated(description="Grüße"),
        ProjectUpdated(description="b"),
        ProjectUpdated(),
    ]
    assert [recorded.seq for recorded in history.events] == [1, 2, 3]
    assert history.seq == second.seq == await bus.log.end()
    assert {recorded.envelope.cause for recorded in history.events} == {CAUSE}
    assert (await bus.log.load(address.project("webshop"), after=1)).events == history.events[1:]
    assert await bus.log.last(address.project("webshop")) == history.events[-1]


async def test_the_headers_are_those_of_the_contract(bus: Bus) -> None:
    await bus.log.append(created("webshop"), cause=CAUSE)
    recorded = await bus.log.last(address.project("webshop"))
    raw = await bus.log.reader.get(1)
    assert recorded is not None
    assert raw is not None
    assert to_headers(recorded.envelope).items() <= raw.headers.items()


async def test_an_aggregate_that_does_not_exist_is_empty(bus: Bus) -> None:
    assert (await bus.log.load(address.project("nobody"))).seq == 0
    assert await bus.log.last(address.project("nobody")) is None


async def test_of_fifty_racers_one_wins(server: EmbeddedNats, bus: Bus) -> None:
    async with connect(server, "rival") as rival:
        outcomes = await asyncio.gather(
            *((bus, rival)[n % 2].log.append(created("webshop"), cause=CAUSE) for n in range(50)),
            return_exceptions=True,
        )
    assert Counter(type(outcome) for outcome in outcomes) == {Appended: 1, Conflict: 49}
    assert await bus.log.end() == 1


async def test_a_conflict_says_where_the_aggregate_is(bus: Bus) -> None:
    await bus.log.append(created("other"), cause=CAUSE)
    await bus.log.append(created("webshop"), cause=CAUSE)
    with pytest.raises(Conflict) as conflict:
        await bus.log.append(created("webshop"), cause=CAUSE)
    assert (conflict.value.expected, conflict.value.actual) == (0, 2)


async def test_two_aggregates_are_appended_together_or_not_at_all(bus: Bus) -> None:
    await bus.log.append(created("b"), cause=CAUSE)
    with pytest.raises(Conflict):
        await bus.log.append(created("a"), created("b"), cause=CAUSE)
    assert (await bus.log.load(address.project("a"))).seq == 0
    both = await bus.log.append(created("a"), created("b", expected=1), cause=CAUSE)
    assert both.seq == 3
    assert (await bus.log.load(address.project("a"))).seq == 2


async def test_one_conflict_in_a_shared_commit_fails_alone(bus: Bus) -> None:
    names = [f"p{n}" for n in range(300)]
    await bus.log.append(*(created(name) for name in names[::7]), cause=CAUSE)
    outcomes = await asyncio.gather(
        *(bus.log.append(created(name), cause=CAUSE) for name in names), return_exceptions=True
    )
    lost = [name for name, outcome in zip(names, outcomes, strict=True) if isinstance(outcome, Conflict)]
    assert lost == names[::7]
    assert await bus.log.end() == 300
    won = [outcome.seq for outcome in outcomes if isinstance(outcome, Appended)]
    for name, outcome in zip(names, outcomes, strict=True):
        if isinstance(outcome, Appended):
            assert (await bus.log.load(address.project(name))).seq == outcome.seq
    assert len(set(won)) == len(won)


async def test_appends_of_one_aggregate_never_share_a_commit(bus: Bus) -> None:
    outcomes = await asyncio.gather(
        *(bus.log.append(created("same"), created(f"own{n}"), cause=CAUSE) for n in range(40)), return_exceptions=True
    )
    assert Counter(type(outcome) for outcome in outcomes) == {Appended: 1, Conflict: 39}
    assert await bus.log.end() == 2


async def test_the_same_append_again_is_the_same_append(bus: Bus) -> None:
    ids = (fresh.uuid7(), fresh.uuid7())
    write = Write(address.project("webshop"), 0, (ProjectCreated(), ProjectUpdated()), ids)
    first = await bus.log.append(write, cause=CAUSE)
    await bus.log.append(Write(address.project("webshop"), first.seq, (ProjectUpdated(),)), cause=CAUSE)
    assert await bus.log.append(write, cause=CAUSE) == first
    assert await bus.log.end() == 3


async def test_the_same_append_in_two_parts_again_is_the_same_append(bus: Bus) -> None:
    writes = [Write(address.project(name), 0, (ProjectCreated(),), (fresh.uuid7(),)) for name in ("a", "b")]
    first = await bus.log.append(*writes, cause=CAUSE)
    assert await bus.log.append(*writes, cause=CAUSE) == first


@pytest.mark.parametrize("members", [1, 2])
async def test_an_id_that_is_taken_by_another_event_is_refused(bus: Bus, members: int) -> None:
    taken = fresh.uuid7()
    await bus.log.append(Write(address.project("a"), 0, (ProjectCreated(),), (taken,)), cause=CAUSE)
    ids = (taken, *(fresh.uuid7() for _ in range(members - 1)))
    with pytest.raises(IdReused, match="already in the log at seq 1" if members == 1 else "already in the log, for"):
        await bus.log.append(Write(address.project("b"), 0, (ProjectCreated(),) * members, ids), cause=CAUSE)
    assert await bus.log.end() == 1


async def test_what_makes_no_sense_is_refused_before_it_is_sent(bus: Bus) -> None:
    write = created("webshop")
    with pytest.raises(Refused, match="each aggregate once"):
        await bus.log.append(write, write, cause=CAUSE)
    with pytest.raises(Refused, match="each aggregate once"):
        await bus.log.append(cause=CAUSE)
    with pytest.raises(Refused, match="0 events"):
        await bus.log.append(Write(address.project("webshop"), 0, ()), cause=CAUSE)
    with pytest.raises(Refused, match="not to webshop/machine/x"):
        await bus.log.append(Write(address.machine("webshop", "x"), 0, (ProjectCreated(),)), cause=CAUSE)
    with pytest.raises(Refused, match="at most 1000"):
        await bus.log.append(Write(address.project("x"), 0, (ProjectUpdated(),) * 1001), cause=CAUSE)


async def test_a_full_log_says_so_at_once_and_keeps_what_it_has(server: EmbeddedNats) -> None:
    async with connect(server) as bus:
        await topology.apply(bus, Sizes(log_bytes=MIB // 8))
        stored = 0

        async def fill() -> None:
            nonlocal stored
            while True:
                await bus.log.append(created(f"p{stored}", description="x" * 4000), cause=CAUSE, deadline_s=5)
                stored += 1

        with pytest.raises(LogFull, match="log is full"):
            await asyncio.wait_for(fill(), 20)
        assert 10 < stored == await bus.log.end()
        batch = await asyncio.gather(
            *(bus.log.append(created(f"q{n}"), cause=CAUSE) for n in range(100)), return_exceptions=True
        )
        assert {type(outcome) for outcome in batch} <= {LogFull, Appended}


async def test_a_queue_that_is_full_is_refused_when_the_deadline_passes(
    server: EmbeddedNats, bus: Bus, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log_append, "QUEUE_MESSAGES_MAX", 5)
    server.kill()
    outcomes = await asyncio.gather(
        *(bus.log.append(created(f"p{n}"), cause=CAUSE, deadline_s=0.3) for n in range(30)), return_exceptions=True
    )
    assert {type(outcome) for outcome in outcomes} == {Transient}


async def test_an_append_waits_for_a_server_that_comes_back(server: EmbeddedNats, bus: Bus) -> None:
    server.kill()
    waiting = [asyncio.create_task(bus.log.append(created(f"p{n}"), cause=CAUSE)) for n in range(20)]
    await server.start()
    assert sorted([(await task).seq for task in waiting]) == list(range(1, 21))


async def test_kill_9_of_the_server_under_load_loses_and_doubles_nothing(server: EmbeddedNats, bus: Bus) -> None:
    acknowledged: dict[UUID, int] = {}
    stop = asyncio.Event()

    async def write(where: Address) -> None:
        seq = 0
        while not stop.is_set():
            ids = (fresh.uuid7(), fresh.uuid7())
            event = ProjectCreated() if seq == 0 else ProjectUpdated()
            done = await bus.log.append(Write(where, seq, (event, ProjectUpdated()), ids), cause=CAUSE)
            acknowledged.update({ids[0]: done.seq - 1, ids[1]: done.seq})
            seq = done.seq

    async with asyncio.TaskGroup() as tasks:
        for n in range(60):
            tasks.create_task(write(address.project(f"p{n}")))
        for _ in range(4):
            before = len(acknowledged)
            async with asyncio.timeout(20):
                while len(acknowledged) < before + 400:
                    await asyncio.sleep(0.005)
            server.kill()
            await server.start()
        stop.set()
    stored: dict[UUID, int] = {}
    async for batch in bus.log.follow(stop_at_end=True):
        for recorded in batch:
            assert recorded.envelope.id not in stored
            stored[recorded.envelope.id] = recorded.seq
    assert acknowledged == stored


async def test_an_append_that_waits_behind_others_keeps_its_own_deadline(server: EmbeddedNats, bus: Bus) -> None:
    """Whoever waits for as long as the server is away takes every place on the way; the door promises seconds."""
    server.kill()
    await eventually(lambda: not bus.nc.is_connected)
    async with asyncio.TaskGroup() as patient:
        for number in range(3):
            patient.create_task(_transient(bus.log.append(created(f"p{number}"), cause=CAUSE, deadline_s=12)))
            await asyncio.sleep(0)
            await asyncio.sleep(0)
        begun = asyncio.get_running_loop().time()
        hasty = [bus.log.append(created(f"q{number}"), cause=CAUSE, deadline_s=0.5) for number in range(3)]
        outcomes = await asyncio.gather(*hasty, return_exceptions=True)
        assert {type(outcome) for outcome in outcomes} == {Transient}
        assert asyncio.get_running_loop().time() - begun < 5


async def _transient(append: Awaitable[Appended]) -> None:
    with pytest.raises(Transient):
        await append
