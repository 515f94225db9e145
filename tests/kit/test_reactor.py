"""Handlers: every message is done, comes again, or is buried where it can be seen; none blocks the others."""

import asyncio
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from decimal import Decimal
from typing import cast
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st
from structlog.contextvars import get_contextvars

from cli.stack.nats import EmbeddedNats
from events import address, fresh
from events.agent import AgentRegistered
from events.budget import BudgetRequested
from events.envelope import Cause, Recorded
from events.project import ProjectCreated
from events.records import EXCERPT_CHARS_MAX, Rejected
from events.words import Unit
from schema.streams import DEAD, IN, ISSUER, LOG, REJECTED, Json
from services.kit import dead, topology
from services.kit.bus import Bus
from services.kit.dead import Letter
from services.kit.delivery import Later, Never, Report
from services.kit.errors import LogFull, Refused, Transient
from services.kit.log import Write
from services.kit.log_follow import Follower
from services.kit.message import RawMessage
from services.kit.reactor import Reactors, covers
from tests.harness import eventually

CREATED = "av.*.project.*.ProjectCreated"
CAUSE = Cause("client:ann")


async def create(bus: Bus, name: str) -> int:
    return (await bus.log.append(Write(address.project(name), 0, (ProjectCreated(),)), cause=CAUSE)).seq


async def letters(bus: Bus) -> list[Letter]:
    return [letter async for letter in dead.letters(bus)]


async def refusals(bus: Bus) -> list[tuple[str, Rejected]]:
    """Return what was refused and under which subject, oldest first."""
    found: list[tuple[str, Rejected]] = []
    async for batch in Follower(bus.wire, REJECTED, 0, ("rejected.>",), 100).batches(stop_at_end=True):
        found += [(message.subject, Rejected.model_validate_json(message.data)) for message in batch]
    return found


@asynccontextmanager
async def hearing(bus: Bus, trouble: dict[str, list[Exception]], **options: int) -> AsyncGenerator[list[str]]:
    """Run a handler that raises, per project, what stands in `trouble`, one after the other. Yields who was heard."""
    reactors = Reactors(bus, "issuer")
    heard: list[str] = []

    @reactors.on(stream=LOG, durable="issuer", subjects=[CREATED], **options)
    async def on_created(recorded: Recorded) -> None:
        name = recorded.envelope.address.project
        heard.append(name)
        if trouble.get(name):
            raise trouble[name].pop(0)

    async with reactors.running():
        yield heard


async def acknowledged(bus: Bus, durable: str = "issuer", stream: str = LOG) -> bool:
    """Whether the durable, which hears all of the stream here, has done all of it."""
    last = (await bus.js.stream_info(stream)).state.last_seq
    info = await bus.js.consumer_info(stream, durable)
    delivered = info.delivered.stream_seq if info.delivered else 0
    return (delivered, info.num_pending, info.num_ack_pending) == (last, 0, 0)


async def test_every_event_is_handled_once(bus: Bus) -> None:
    async with hearing(bus, {}) as heard:
        for n in range(20):
            await create(bus, f"p{n}")
        await eventually(lambda: acknowledged(bus))
    assert heard == [f"p{n}" for n in range(20)]


async def test_what_failed_comes_again_and_does_not_block_the_others(bus: Bus) -> None:
    async with hearing(bus, {"bad": [RuntimeError("no"), RuntimeError("no")]}) as heard:
        await create(bus, "bad")
        await create(bus, "good")
        await eventually(lambda: "good" in heard)
        await eventually(lambda: acknowledged(bus))
    assert heard.count("bad") == 3
    assert await letters(bus) == []


async def test_later_comes_again_after_its_delay_and_is_not_a_failure(bus: Bus) -> None:
    async with hearing(bus, {"p": [Later(0.3, "not yet")] * 3}, attempts_max=1) as heard:
        started = time.monotonic()
        await create(bus, "p")
        await eventually(lambda: acknowledged(bus))
        assert time.monotonic() - started > 0.8
    assert heard == ["p"] * 4
    assert await letters(bus) == []


@pytest.mark.parametrize("away", [Transient("log away"), LogFull("full")])
async def test_while_the_log_is_away_nothing_is_buried(bus: Bus, away: Exception) -> None:
    async with hearing(bus, {"p": [away, away]}, attempts_max=1) as heard:
        await create(bus, "p")
        await eventually(lambda: len(heard) == 3)
    assert await letters(bus) == []


async def test_never_is_buried_at_once_with_its_reason(bus: Bus) -> None:
    async with hearing(bus, {"p": [Never("the spec can never be met")]}) as heard:
        seq = await create(bus, "p")
        await eventually(lambda: acknowledged(bus))
    (letter,) = await letters(bus)
    assert heard == ["p"]
    assert (letter.letter.service, letter.letter.durable, letter.letter.seq) == ("issuer", "issuer", seq)
    assert letter.letter.error == "the spec can never be met"


async def test_after_all_attempts_it_is_buried_and_can_be_retried(bus: Bus) -> None:
    trouble: dict[str, list[Exception]] = {"p": [RuntimeError("no")] * 3}
    async with hearing(bus, trouble, attempts_max=2) as heard:
        await create(bus, "p")
        (letter,) = await eventually(lambda: letters(bus))
        assert letter.letter.attempts == 2
        assert letter.letter.error == "RuntimeError: no"
        with pytest.raises(Refused, match="failed again: RuntimeError: no"):
            await dead.retry(bus, letter.seq)
        assert len(await letters(bus)) == 1
        await dead.retry(bus, letter.seq)
        assert await letters(bus) == []
        assert heard == ["p"] * 4
        with pytest.raises(Refused, match="no dead letter"):
            await dead.retry(bus, letter.seq)


async def test_a_letter_of_a_service_that_does_not_run_stays(bus: Bus) -> None:
    async with hearing(bus, {"p": [Never("no")]}):
        await create(bus, "p")
        (letter,) = await eventually(lambda: letters(bus))
    with pytest.raises(Transient, match="service issuer did not take dead letter"):
        await dead.retry(bus, letter.seq)
    assert len(await letters(bus)) == 1
    await dead.discard(bus, letter.seq)
    assert await letters(bus) == []


async def test_while_dead_letters_cannot_be_stored_the_message_stays(bus: Bus, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("services.kit.reactor.BURIAL_PAUSE_S", 0.1)
    config = cast("Json", (await bus.wire.api(f"STREAM.INFO.{DEAD}"))["config"])
    await bus.wire.api(f"STREAM.DELETE.{DEAD}")
    trouble: dict[str, list[Exception]] = {"p": [Never("no")] * 100}
    async with hearing(bus, trouble) as heard:
        await create(bus, "p")
        await eventually(lambda: len(heard) >= 2)
        await bus.wire.api(f"STREAM.CREATE.{DEAD}", config)
        await eventually(lambda: letters(bus))


async def test_reports_are_read_and_what_cannot_be_read_is_refused_not_buried(bus: Bus) -> None:
    reactors = Reactors(bus, "spawner")
    heard: list[Report] = []
    context: list[dict[str, object]] = []
    machine_id = fresh.uuid7()

    @reactors.on_report(stream=IN, durable="spawner-reports", subjects=["from.*.*.*.spawner.>"])
    async def on_report(report: Report) -> None:
        heard.append(report)
        context.append(get_contextvars())

    poison = {
        f"from.web.{machine_id}.1.spawner.Nonsense": b"{}",
        f"from.web.{machine_id}.1.spawner.AgentRegistered": b"not json \xff",
        "from.web.no-uuid.1.spawner.AgentRegistered": b'{"agent_version":"1"}',
        f"from.web.{machine_id}.one.spawner.AgentRegistered": b'{"agent_version":"1"}',
        f"from.web.{machine_id}.1.spawner.Agent.Registered": b'{"agent_version":"1"}',
    }
    async with reactors.running():
        for subject, body in poison.items():
            await bus.js.publish(subject, body, headers={"X": "y"})
        subject = address.report("web", machine_id, 2, "spawner", "AgentRegistered")
        await bus.js.publish(subject, b'{"agent_version":"1.2"}', headers={"Nats-Msg-Id": "m-1"})
        await eventually(lambda: acknowledged(bus, "spawner-reports", IN))
    (report,) = heard
    assert (report.project, report.machine_id, report.epoch, report.msg_id) == ("web", machine_id, 2, "m-1")
    assert report.model == AgentRegistered(agent_version="1.2")
    assert context[0]["machine_id"] == str(UUID(str(machine_id)))
    assert context[0]["cause"] == "AgentRegistered"
    assert await letters(bus) == []
    records = await refusals(bus)
    assert {record.subject: record.excerpt for _, record in records} == {
        subject: body.decode("utf-8", "backslashreplace") for subject, body in poison.items()
    }
    assert {record.problem.code for _, record in records} == {"bad_report"}
    assert f"rejected.web.machine.{machine_id}.Nonsense" in {subject for subject, _ in records}
    assert {record.sender for _, record in records} == {f"machine:{machine_id}", "machine:no-uuid"}


async def test_no_machine_can_fill_the_dead_letters_with_what_is_refused_of_it(bus: Bus) -> None:
    reactors = Reactors(bus, "checkpointer")

    @reactors.on_report(stream=IN, durable="checkpointer-reports", subjects=["from.*.*.*.checkpointer.>"])
    async def on_report(report: Report) -> None:
        raise Never(f"epoch {report.epoch} is over \x1b[31m")

    machine_id = fresh.uuid7()
    subject = address.report("web", machine_id, 1, "checkpointer", "CaptureFailed")
    body = b'{"checkpoint_id":"%b","reason":"x"}' % str(machine_id).encode()
    async with reactors.running():
        for n in range(3):
            await bus.js.publish(subject, body + b" " * 500_000, headers={"Nats-Msg-Id": f"{n}" * 1_000})
            await bus.js.publish(subject, b"\xff\x00" * 250_000)
        await eventually(lambda: acknowledged(bus, "checkpointer-reports", IN))
    assert (await bus.js.stream_info(DEAD)).state.messages == 0
    records = await refusals(bus)
    assert {where for where, _ in records} == {f"rejected.web.machine.{machine_id}.CaptureFailed"}
    assert sorted(record.problem.code for _, record in records) == ["bad_report"] * 3 + ["refused"] * 3
    assert {record.problem.message for _, record in records if record.problem.code == "refused"} == {
        "epoch 1 is over \\x1b[31m"
    }
    assert all(record.size_bytes >= 500_000 and len(record.excerpt) <= EXCERPT_CHARS_MAX for _, record in records)


async def test_a_report_stays_until_its_refusal_is_recorded(bus: Bus, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("services.kit.reactor.BURIAL_PAUSE_S", 0.1)
    config = cast("Json", (await bus.wire.api(f"STREAM.INFO.{REJECTED}"))["config"])
    await bus.wire.api(f"STREAM.DELETE.{REJECTED}")
    reactors = Reactors(bus, "spawner")
    heard = 0

    @reactors.on_report(stream=IN, durable="spawner-reports", subjects=["from.*.*.*.spawner.>"])
    async def on_report(_: Report) -> None:
        nonlocal heard
        heard += 1
        raise Never("no")

    async with reactors.running():
        subject = address.report("web", fresh.uuid7(), 1, "spawner", "AgentRegistered")
        await bus.js.publish(subject, b'{"agent_version":"1"}')
        await eventually(lambda: heard >= 2)
        await bus.wire.api(f"STREAM.CREATE.{REJECTED}", config)
        await eventually(lambda: refusals(bus))


async def test_of_reports_that_we_fail_at_few_are_kept_per_machine_and_cut(
    bus: Bus, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("services.kit.dead.REPORTS_MAX", 3)
    reactors = Reactors(bus, "spawner")

    @reactors.on_report(stream=IN, durable="spawner-reports", subjects=["from.*.*.*.spawner.>"], attempts_max=1)
    async def on_report(_: Report) -> None:
        raise RuntimeError("our fault")

    loud, calm = fresh.uuid7(), fresh.uuid7()
    large = b'{"agent_version":"1"}' + b" " * 500_000
    async with reactors.running():
        for machine_id, bodies in ((loud, [large] * 5), (calm, [b'{"agent_version":"1"}'])):
            for body in bodies:
                await bus.js.publish(address.report("web", machine_id, 1, "spawner", "AgentRegistered"), body)
        await eventually(lambda: acknowledged(bus, "spawner-reports", IN))
    buried = await letters(bus)
    of_loud = [letter for letter in buried if str(loud) in letter.letter.subject]
    assert [letter.whole for letter in of_loud] == [False] * 3
    assert all(len(letter.message.data) == dead.REPORT_BYTES_MAX for letter in of_loud)
    (of_calm,) = [letter for letter in buried if letter not in of_loud]
    assert (of_calm.whole, of_calm.letter.error) == (True, "RuntimeError: our fault")
    assert await refusals(bus) == []


async def test_hostile_subjects_reach_a_raw_handler_escaped(bus: Bus) -> None:
    reactors = Reactors(bus, "intake")
    heard: list[str] = []

    @reactors.on_raw(stream=IN, durable="intake", subjects=["in.>"])
    async def on_message(message: RawMessage) -> None:
        heard.append(message.subject)

    async with reactors.running():
        for subject in (b"in.\xff.x", b"in.a\x0bb", b"in.plain"):
            bus.nc.send_now(b"PUB %b 2\r\n{}\r\n" % subject)
        await eventually(lambda: acknowledged(bus, "intake", IN))
        await eventually(lambda: len(heard) == 3)
    assert heard == ["in.\\xff.x", "in.a\x0bb", "in.plain"]


async def test_handlers_share_a_durable_by_subject(bus: Bus) -> None:
    reactors = Reactors(bus, "budget")
    heard: list[str] = []

    @reactors.on(stream=LOG, durable="budget", subjects=["av.*.machine.*.MachineRequested"])
    async def on_machine(_: Recorded) -> None:
        heard.append("machine")

    @reactors.on(stream=LOG, durable="budget", subjects=["av.*.budget.*.BudgetRequested"])
    async def on_budget(_: Recorded) -> None:
        heard.append("budget")

    async with reactors.running():
        asked = BudgetRequested(amount=Decimal(1), unit=Unit.CAD)
        await bus.log.append(Write(address.budget("p", "p"), 0, (asked,)), cause=CAUSE)
        await eventually(lambda: acknowledged(bus, "budget"))
    assert heard == ["budget"]


async def test_several_are_handled_at_once_but_never_two_of_one_aggregate(bus: Bus) -> None:
    reactors = Reactors(bus, "spawner")
    order: list[tuple[str, str]] = []
    most = running = 0

    @reactors.on_report(stream=IN, durable="spawner-reports", subjects=["from.*.*.*.spawner.>"], concurrency=4)
    async def on_report(report: Report) -> None:
        nonlocal most, running
        running += 1
        most = max(most, running)
        await asyncio.sleep(0.02)
        assert isinstance(report.model, AgentRegistered)
        order.append((str(report.machine_id), report.model.agent_version))
        running -= 1

    machines = [fresh.uuid7() for _ in range(4)]
    for n in range(5):
        for machine_id in machines:
            subject = address.report("web", machine_id, 1, "spawner", "AgentRegistered")
            await bus.js.publish(subject, b'{"agent_version":"%d"}' % n)
    async with reactors.running():
        await eventually(lambda: len(order) == 20)
    assert 2 <= most <= 4
    for machine_id in machines:
        assert [version for who, version in order if who == str(machine_id)] == ["0", "1", "2", "3", "4"]


async def test_a_long_handler_is_not_delivered_again(bus: Bus, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("services.kit.reactor.PROGRESS_EVERY_S", 0.1)
    config: dict[str, Json] = {**ISSUER.config(), "ack_wait": 400_000_000}
    await bus.wire.api(f"CONSUMER.CREATE.{LOG}.issuer", {"stream_name": LOG, "config": config, "action": "update"})
    reactors = Reactors(bus, "issuer")
    heard = 0

    @reactors.on(stream=LOG, durable="issuer", subjects=[CREATED], concurrency=2)
    async def on_created(_: Recorded) -> None:
        nonlocal heard
        heard += 1
        await asyncio.sleep(1.2)

    async with reactors.running():
        await create(bus, "p")
        await eventually(lambda: heard and acknowledged(bus))
    assert heard == 1


async def test_a_server_restart_is_over_for_handlers_within_seconds(server: EmbeddedNats, bus: Bus) -> None:
    async with hearing(bus, {}) as heard:
        await create(bus, "before")
        await eventually(lambda: heard == ["before"])
        server.kill()
        await server.start()
        await create(bus, "after")
        started = time.monotonic()
        await eventually(lambda: "after" in heard)
        assert time.monotonic() - started < 3


async def test_a_consumer_that_is_made_again_is_heard_again(bus: Bus) -> None:
    async with hearing(bus, {}) as heard:
        await create(bus, "before")
        await eventually(lambda: heard == ["before"])
        await bus.wire.api(f"CONSUMER.DELETE.{LOG}.issuer")
        await create(bus, "after")
        await topology.apply(bus)
        await eventually(lambda: "after" in heard)


async def test_a_stopped_service_finishes_what_it_has_begun(bus: Bus) -> None:
    reactors = Reactors(bus, "issuer")
    begun = asyncio.Event()
    done: list[str] = []

    @reactors.on(stream=LOG, durable="issuer", subjects=[CREATED])
    async def on_created(recorded: Recorded) -> None:
        begun.set()
        await asyncio.sleep(0.2)
        done.append(recorded.envelope.address.project)

    async with reactors.running():
        await create(bus, "p")
        await begun.wait()
    assert done == ["p"]
    assert await acknowledged(bus)


async def test_health_notices_a_deleted_consumer_and_one_that_stands_still(
    bus: Bus, monkeypatch: pytest.MonkeyPatch
) -> None:
    reactors = Reactors(bus, "issuer")

    @reactors.on(stream=LOG, durable="issuer", subjects=[CREATED])
    async def on_created(_: Recorded) -> None:
        raise AssertionError("does not run")

    assert (await reactors.health()).ok
    await create(bus, "p")
    monkeypatch.setattr("services.kit.reactor.STALLED_S", -1.0)
    (part,) = (await reactors.health()).parts
    assert not part.ok
    assert "1 behind" in part.detail
    assert "stalled" in part.detail
    await bus.wire.api(f"CONSUMER.DELETE.{LOG}.issuer")
    (part,) = (await reactors.health()).parts
    assert not part.ok
    assert "consumer not found" in part.detail


async def test_a_handler_that_could_never_hear_refuses_to_run(bus: Bus) -> None:
    reactors = Reactors(bus, "issuer")

    @reactors.on(stream=LOG, durable="issuer", subjects=["av.*.machine.*.MachineEnded"])
    async def on_ended(_: Recorded) -> None: ...

    with pytest.raises(Refused, match="does not hear"):
        async with reactors.running():
            pass
    missing = Reactors(bus, "x")

    @missing.on(stream=LOG, durable="nobody", subjects=[CREATED])
    async def on_created(_: Recorded) -> None: ...

    with pytest.raises(Refused, match="consumer not found"):
        async with missing.running():
            pass


TOKENS = st.lists(st.sampled_from(["a", "b", "*"]), min_size=1, max_size=4)


@given(wide=TOKENS, narrow=TOKENS, wide_tail=st.booleans(), narrow_tail=st.booleans())
def test_a_filter_covers_another_when_it_names_all_its_subjects(
    wide: list[str],
    narrow: list[str],
    wide_tail: bool,  # noqa: FBT001 # drawn, not called by people
    narrow_tail: bool,  # noqa: FBT001 # as above
) -> None:
    outer = ".".join([*wide, ">"] if wide_tail else wide)
    inner = ".".join([*narrow, ">"] if narrow_tail else narrow)
    subjects = {token.replace("*", letter) for token in [inner] for letter in "ac"}
    examples = {subject.replace(">", tail) for subject in subjects for tail in ("a", "c.c")}
    assert covers(outer, inner) == all(covers(outer, example) for example in examples)


async def test_health_notices_a_handler_that_hangs(bus: Bus, monkeypatch: pytest.MonkeyPatch) -> None:
    """It tells the server for ever that it is at work, so nobody else ever gets the message, and nothing comes after it."""
    reactors = Reactors(bus, "issuer")
    begun, release = asyncio.Event(), asyncio.Event()

    @reactors.on(stream=LOG, durable="issuer", subjects=[CREATED])
    async def on_created(_: Recorded) -> None:
        begun.set()
        await release.wait()

    async with reactors.running():
        await create(bus, "p")
        async with asyncio.timeout(10):
            await begun.wait()
        assert (await reactors.health()).ok
        monkeypatch.setattr("services.kit.reactor.AT_WORK_MAX_S", 0.0)
        (part,) = (await reactors.health()).parts
        assert not part.ok
        assert "hangs" in part.detail
        release.set()
