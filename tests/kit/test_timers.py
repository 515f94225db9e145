"""Timers: they fire into the log when they are due, once, whatever happened to the server meanwhile."""

from datetime import timedelta

import pytest

from cli.stack.nats import EmbeddedNats
from events import fresh
from events.envelope import Recorded
from events.timer import TimerFired
from schema.streams import LOG, TIMER_FILTER, TIMERS
from services.kit.bus import Bus
from services.kit.errors import Refused, Transient
from services.kit.timers import Timers
from services.kit.wire import ApiError, Wire
from tests.harness import eventually


async def fired(bus: Bus, count: int) -> list[Recorded]:
    async def enough() -> list[Recorded]:
        found = [each async for batch in bus.log.follow(filters=[TIMER_FILTER], stop_at_end=True) for each in batch]
        return found if len(found) >= count else []

    return await eventually(enough)


async def test_a_timer_fires_into_the_log_when_it_is_due(bus: Bus) -> None:
    timers = Timers(bus, "spawner")
    due = fresh.now() + timedelta(seconds=0.5)
    await timers.set("m-1:goal", due, "webshop", "machine", "m-1", "goal")
    (timer,) = await fired(bus, 1)
    assert timer.event == TimerFired(
        owner="spawner", project="webshop", subject_aggregate="machine", subject_id="m-1", purpose="goal", due_at=due
    )
    assert timer.envelope.address.project == "_hub"
    assert timer.envelope.address.id == str(timers.id_of("m-1:goal"))
    assert timer.envelope.cause.actor == "timers"
    assert timedelta(seconds=-0.01) < timer.recorded_at - due < timedelta(seconds=2)


async def test_a_past_timer_fires_at_once_and_setting_again_moves_it(bus: Bus) -> None:
    timers = Timers(bus, "spawner")
    await timers.set("a", fresh.now() + timedelta(hours=1), "p", "machine", "a", "phase")
    await timers.set("a", fresh.now() - timedelta(hours=1), "p", "machine", "a", "phase")
    assert len(await fired(bus, 1)) == 1


async def test_the_same_timer_fired_twice_is_two_events(bus: Bus) -> None:
    timers = Timers(bus, "spawner")
    for count in (1, 2):
        await timers.set("a", fresh.now(), "p", "machine", "a", "phase")
        found = await fired(bus, count)
    assert len({timer.envelope.id for timer in found}) == 2


async def test_a_cancelled_timer_does_not_fire(bus: Bus) -> None:
    timers = Timers(bus, "spawner")
    await timers.set("a", fresh.now() + timedelta(seconds=0.4), "p", "machine", "a", "phase")
    await timers.set("b", fresh.now() + timedelta(seconds=0.8), "p", "machine", "b", "phase")
    await timers.cancel("a")
    await timers.cancel("never set")
    (timer,) = await fired(bus, 1)
    assert isinstance(timer.event, TimerFired)
    assert timer.event.subject_id == "b"


@pytest.mark.parametrize(("code", "kind"), [(503, Transient), (404, Refused)])
async def test_a_cancellation_that_the_server_cannot_take_now_is_to_be_tried_again(
    bus: Bus, monkeypatch: pytest.MonkeyPatch, code: int, kind: type[Exception]
) -> None:
    """A server that has no leader or no resources answers 503; no server here can be brought to that at will."""

    async def refuse(wire: Wire, subject: str, body: object = None) -> object:
        raise ApiError(code, 10_008, f"{subject} is not available")

    monkeypatch.setattr(Wire, "api", refuse)
    with pytest.raises(kind, match="was not cancelled") as caught:
        await Timers(bus, "spawner").cancel("a")
    assert type(caught.value) is kind


async def test_a_timer_that_was_due_while_the_server_was_dead_fires_when_it_is_back(
    server: EmbeddedNats, bus: Bus
) -> None:
    due = fresh.now() + timedelta(seconds=0.5)
    await Timers(bus, "budget").set("x", due, "p", "budget", "x", "day")
    server.kill()
    await eventually(lambda: fresh.now() > due)
    await server.start()
    assert len(await fired(bus, 1)) == 1


async def test_a_fired_timer_stays_in_the_log_when_timers_forgets_it(bus: Bus) -> None:
    """The copy carries the schedule's time to live; the log must not obey it."""
    header = b"NATS/1.0\r\nNats-Schedule: @at %b\r\nNats-Schedule-Target: avt.fire.t.TimerFired\r\nNats-Schedule-TTL: 1s\r\n\r\n"
    await bus.wire.publish("avt.sched.t", header % b"2026-01-01T00:00:00Z", b"{}", 5)
    await eventually(lambda: _messages(bus, LOG, 1))
    await eventually(lambda: _messages(bus, TIMERS, 0))
    assert await _messages(bus, LOG, 1)


async def _messages(bus: Bus, stream: str, count: int) -> bool:
    return (await bus.js.stream_info(stream)).state.messages == count
