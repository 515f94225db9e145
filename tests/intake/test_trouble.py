"""The door in trouble: the log full, the server away, too many at once. Nothing acknowledged is lost or done twice."""

import asyncio
import json

import nats
import pytest
from nats.errors import Error as NatsError

from cli.stack.nats import EmbeddedNats
from events.address import project
from schema.streams import Sizes
from services.intake import asked
from services.intake.app import IntakeSettings, create_app
from services.kit import topology
from services.kit.bus import Bus
from services.kit.message import RawMessage
from services.kit.settings import BusSettings
from tests.harness import eventually
from tests.intake.conftest import GOAL, Knocker, a_machine, given_project


async def test_while_the_log_is_full_asking_is_refused_clearly_and_what_was_published_waits(
    nats_server: EmbeddedNats,
) -> None:
    async with Bus.connect(BusSettings(nats_url=nats_server.url), name="test") as bus:
        await topology.apply(bus, Sizes(log_bytes=20_000))
        await given_project(bus, "webshop")
        knocker = Knocker(bus.nc, bus)
        long = GOAL | {"goal": "x" * 2_000}
        async with create_app(bus, IntakeSettings(nats_url=nats_server.url, door_full_delay_s=0.2)):
            answers = [await knocker.ask(a_machine(), long) for _ in range(40)]
            assert answers[0].seq
            refused = answers[-1].problem
            assert refused
            assert (answers[-1].code, refused.code) == ("503", "unavailable")
            assert "full" in refused.message
            stored = len(await knocker.of("MachineRequested"))
            assert stored == sum(answer.seq > 0 for answer in answers)
            await knocker.publish(a_machine(), long)
            await topology.apply(bus, Sizes(log_bytes=2_000_000))
            await knocker.handled()
            assert len(await knocker.of("MachineRequested")) == stored + 1


async def test_the_server_killed_under_load_loses_nothing_acknowledged_and_does_nothing_twice(
    nats_server: EmbeddedNats,
) -> None:
    port = nats_server.port
    async with Bus.connect(BusSettings(nats_url=nats_server.url), name="test") as bus:
        await topology.apply(bus)
        await given_project(bus, "webshop")
        published = await nats.connect(nats_server.url, max_reconnect_attempts=-1, reconnect_time_wait=0.05)
        acknowledged: list[str] = []

        async def knock() -> None:
            stream = published.jetstream(timeout=1)
            for number in range(120):
                subject = a_machine()
                try:
                    await stream.publish(f"in.{subject}", json.dumps(GOAL).encode(), headers={"ce-id": str(number)})
                except (NatsError, TimeoutError):
                    continue
                acknowledged.append(subject.split(".")[2])

        async with create_app(bus, IntakeSettings(nats_url=nats_server.url)):
            knocking = asyncio.create_task(knock())
            await eventually(lambda: len(acknowledged) > 20)
            nats_server.kill()
            await _start_again(nats_server, port)
            await knocking
            knocker = Knocker(bus.nc, bus)
            await knocker.handled()
            stored = [recorded.envelope.address.id for recorded in await knocker.of("MachineRequested")]
        assert len(stored) == len(set(stored))
        assert set(acknowledged) <= set(stored)
        await published.close()


async def test_more_questions_than_there_is_room_for_are_refused_and_the_door_stays_open(
    nats_server: EmbeddedNats, bus: Bus
) -> None:
    await given_project(bus, "webshop")
    async with create_app(bus, IntakeSettings(nats_url=nats_server.url, door_asked_at_once_max=2)):
        knocker = Knocker(bus.nc, bus)
        answers = await asyncio.gather(*(knocker.ask(a_machine(), GOAL) for _ in range(30)))
        assert {answer.code for answer in answers} == {"", "503"}
        assert (await knocker.ask(a_machine(), GOAL)).seq
    assert len(await knocker.of("MachineRequested")) == 1 + sum(answer.seq > 0 for answer in answers)


async def test_a_defect_of_ours_is_answered_and_not_swallowed(door: Knocker, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object, **__: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(asked, "read", broken)
    answer = await door.ask(a_machine(), GOAL)
    assert answer.problem
    assert (answer.code, answer.problem.code) == ("500", "internal")


async def _start_again(server: EmbeddedNats, port: int) -> None:
    """On the port that clients know."""
    object.__setattr__(server.config, "port", port)
    await server.start()


async def test_two_doors_cannot_both_create_a_project(
    nats_server: EmbeddedNats, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is judged must not be older than the seq that the append expects, or another door's event is overlooked."""
    async with (
        Bus.connect(BusSettings(nats_url=nats_server.url), name="one") as bus,
        Bus.connect(BusSettings(nats_url=nats_server.url), name="two") as other,
    ):
        await topology.apply(bus)
        last = bus.log.reader.last
        first = True

        async def slow(subject_filter: str) -> RawMessage | None:
            nonlocal first
            if first:
                first = False
                while not (await bus.log.load(project("webshop"))).seq:
                    await asyncio.sleep(0.02)
            return await last(subject_filter)

        async with create_app(bus, IntakeSettings(nats_url=nats_server.url)):
            monkeypatch.setattr(bus.log.reader, "last", slow)
            asking = asyncio.ensure_future(
                Knocker(bus.nc, bus).ask("webshop.project.webshop.ProjectCreated", {"description": "mine"})
            )
            await eventually(lambda: not first)
            await bus.log.end()  # what was read beside it has been answered
            await given_project(other, "webshop")
            assert (await asking).code == "409"
            assert len(await Knocker(bus.nc, bus).of("ProjectCreated")) == 1


async def test_a_long_history_does_not_make_the_door_slow(door: Knocker, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether an id was used is asked at every knock; reading everything said so far each time is quadratic."""
    await given_project(door.bus, "webshop")
    reader, read = door.bus.log.reader, 0
    read_filter = reader.read_filter

    async def counted(subject_filter: str, after: int, limit: int | None = None) -> list[RawMessage]:
        nonlocal read
        messages = await read_filter(subject_filter, after, limit)
        read += len(messages)
        return messages

    monkeypatch.setattr(reader, "read_filter", counted)
    subject = "webshop.project.webshop.ProjectUpdated"
    first = await door.ask(subject, {"description": "0"}, ce_id="first")
    for number in range(40):
        assert (await door.ask(subject, {"description": str(number)}, ce_id=str(number))).seq
    assert read < 200
    again = await door.ask(subject, {"description": "0"}, ce_id="first")
    assert (again.seq, again.duplicate) == (first.seq, True)
    other = await door.ask(subject, {"description": "other"}, ce_id="first")
    assert other.problem
    assert other.problem.code == "id_reused"
