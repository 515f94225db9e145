"""A machine is captured between its calls and before what is risky; a capture that does not come holds nobody for long."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import pytest
from nats.aio.msg import Msg

from events import address as at
from events.agent import Capture
from events.project import CheckpointPolicy, ProjectCreated
from events.words import CreationContext
from services.gateway.boundary import results_in
from services.kit.bus import Bus
from tests.gateway.provider import anthropic_events, event, provider, streaming
from tests.gateway.world import SHOP, STREAM, Machine, a_world
from tests.harness import eventually

pytestmark = pytest.mark.timeout(60)
RESULTS: dict[str, object] = {
    "role": "user",
    "content": [{"type": "tool_result", "tool_use_id": "t1", "content": "ok"}],
}


@asynccontextmanager
async def agent(bus: Bus, machine: Machine, gate: asyncio.Event) -> AsyncGenerator[list[Capture]]:
    heard: list[Capture] = []

    async def captures(message: Msg) -> None:
        asked = Capture.model_validate_json(message.data)
        heard.append(asked)
        await gate.wait()
        await message.respond(
            b'{"report":"NothingChanged"}' if asked.only_changes else b'{"report":"WorkspaceCaptured"}'
        )

    subject = f"cmd.{SHOP}.{machine.machine_id}.{machine.epoch}.Capture"
    subscription = await bus.nc.subscribe(subject, cb=captures)
    await bus.nc.flush()
    yield heard
    await subscription.unsubscribe()


async def test_the_next_call_waits_until_the_machine_is_captured(bus: Bus) -> None:
    gate = asyncio.Event()
    async with provider() as model, a_world(bus, model.url, is_held=True) as world:
        machine = await world.machine()
        async with agent(bus, machine, gate) as heard:
            assert (await world.said(machine))[0] == 200
            assert not heard, "an incarnation stands at its checkpoint when it calls for the first time"
            body = {**STREAM, "messages": [{"role": "user", "content": "hi"}, RESULTS]}
            asking = [asyncio.create_task(world.said(machine, body))]
            await eventually(lambda: len(heard) == 1)
            asking += [asyncio.create_task(world.said(machine, body)) for _ in range(5)]
            await eventually(lambda: world.gateway.in_flight.open_of(machine.machine_id) == 6)
            assert len(model.heard) == 1
            gate.set()
            assert [status for status, _ in await asyncio.gather(*asking)] == [200] * 6
            assert len(heard) == 2, "those that came while one was under way share the next, which misses nothing"
            assert {(one.creation_context, one.only_changes, one.transcript_has) for one in heard} == {
                (CreationContext.BETWEEN_CALLS, True, ("t1",))
            }


async def test_at_the_latest_after_so_many_calls_there_is_a_checkpoint_whether_files_changed_or_not(bus: Bus) -> None:
    gate = asyncio.Event()
    gate.set()
    async with provider() as model, a_world(bus, model.url, is_held=True) as world:
        machine = await world.machine()
        await world.happen(at.project(SHOP), ProjectCreated(checkpoint_policy=CheckpointPolicy(calls_max=2)))
        await eventually(lambda: world.gateway.tokens.policies(SHOP).checkpoints.calls_max == 2)
        async with agent(bus, machine, gate) as heard:
            for _ in range(5):
                assert (await world.said(machine))[0] == 200
            assert [one.only_changes for one in heard] == [True, False, True, False]


async def test_a_risky_tool_call_is_delivered_after_a_capture(bus: Bus) -> None:
    gate = asyncio.Event()
    gate.set()
    block = {"type": "content_block_start", "content_block": {"type": "tool_use", "name": "Bash"}}
    delta = {"type": "input_json_delta", "partial_json": '{"command": "git reset --hard"}'}
    calls = [block, {"type": "content_block_delta", "delta": delta}, {"type": "content_block_stop"}]
    events = [*anthropic_events()[:-2], *map(event, calls), *anthropic_events()[-2:]]
    async with provider(streaming(*events)) as model, a_world(bus, model.url, is_held=True) as world:
        machine = await world.machine()
        async with agent(bus, machine, gate) as heard:
            assert await world.said(machine) == (200, b"".join(events))
            assert [one.creation_context for one in heard] == [CreationContext.BEFORE_RISK]


async def test_an_agent_that_does_not_answer_holds_one_call_for_its_deadline_and_no_other(bus: Bus) -> None:
    async with provider() as model, a_world(bus, model.url, is_held=True, gateway_checkpoint_s=0.1) as world:
        machine = await world.machine()
        async with agent(bus, machine, asyncio.Event()) as heard:
            for _ in range(3):
                assert (await world.said(machine))[0] == 200
            assert len(heard) == 1


async def test_an_agent_that_does_not_listen_yet_is_asked_at_the_next_call(bus: Bus) -> None:
    gate = asyncio.Event()
    gate.set()
    async with provider() as model, a_world(bus, model.url, is_held=True) as world:
        machine = await world.machine()
        for _ in range(2):
            assert (await world.said(machine))[0] == 200
        async with agent(bus, machine, gate) as heard:
            assert (await world.said(machine))[0] == 200
            assert len(heard) == 1


def test_the_results_since_the_models_last_answer_are_waited_for() -> None:
    answer = {"role": "assistant", "content": "I look."}
    further = {"role": "user", "content": [{"type": "text", "text": "and then?"}]}
    assert results_in({"messages": [{"content": "hi"}, RESULTS]}) == ("t1",)
    assert results_in({"messages": [RESULTS, answer, {**RESULTS, "content": "x"}]}) == ()
    assert results_in({"messages": [answer, RESULTS, further]}) == ("t1",), "a user's word may follow them"
    said = [{"role": "tool", "tool_call_id": name, "content": "ok"} for name in ("c1", "c2")]
    assert results_in({"messages": [answer, *said]}) == ("c1", "c2"), "as OpenAI's dialect has them"
    assert results_in({}) == results_in({"messages": []}) == results_in({"messages": [{"content": "x"}]}) == ()
