"""A machine is captured between its calls and before what is risky; a capture that does not come holds nobody for long."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import orjson
import pytest
from nats.aio.msg import Msg

from events.agent import Capture
from events.project import RISK_RULES, RiskRule
from events.words import CreationContext
from services.gateway.boundary import results_in, risky
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
        heard.append(Capture.model_validate_json(message.data))
        await gate.wait()
        await message.respond(b'{"report":"NothingChanged"}')

    subject = f"cmd.{SHOP}.{machine.machine_id}.{machine.epoch}.Capture"
    subscription = await bus.nc.subscribe(subject, cb=captures)
    await bus.nc.flush()
    yield heard
    await subscription.unsubscribe()


async def test_the_next_call_waits_until_the_machine_is_captured_once(bus: Bus) -> None:
    gate = asyncio.Event()
    async with provider() as model, a_world(bus, model.url, is_held=True) as world:
        machine = await world.machine()
        async with agent(bus, machine, gate) as heard:
            body = {**STREAM, "messages": [{"role": "user", "content": "hi"}, RESULTS]}
            asking = [asyncio.create_task(world.said(machine, body)) for _ in range(3)]
            await eventually(lambda: world.gateway.in_flight.open_of(machine.machine_id) == 3 and len(heard) == 1)
            assert not model.heard
            gate.set()
            assert [status for status, _ in await asyncio.gather(*asking)] == [200] * 3
            assert [(one.creation_context, one.transcript_has) for one in heard] == [
                (CreationContext.BETWEEN_CALLS, ("t1",))
            ]


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
            contexts = [one.creation_context for one in heard]
            assert contexts == [CreationContext.BETWEEN_CALLS, CreationContext.BEFORE_RISK]


async def test_an_agent_that_does_not_answer_holds_one_call_for_its_deadline_and_no_other(bus: Bus) -> None:
    async with provider() as model, a_world(bus, model.url, is_held=True, gateway_checkpoint_s=0.1) as world:
        machine = await world.machine()
        async with agent(bus, machine, asyncio.Event()) as heard:
            assert (await world.said(machine))[0] == 200
            assert (await world.said(machine))[0] == 200
            assert len(heard) == 1


def test_what_is_risky_is_what_a_rule_finds_in_tool_and_input() -> None:
    assert risky(RISK_RULES, "Bash", '{"command":"rm -rf build"}')
    assert risky(RISK_RULES, "delete_file", "{}")
    assert risky(RISK_RULES, "Bash", " " * 17_000 + "rm -rf build"), "padding hides nothing"
    assert not risky(RISK_RULES, "Bash", '{"command":"ls"}')
    assert not risky(RISK_RULES, "Read", '{"path":"rm -rf"}')
    assert risky((RiskRule(tool="("),), "Read", "{}")


def test_the_results_of_the_last_message_are_waited_for() -> None:
    assert results_in(orjson.dumps({"messages": [{"content": "hi"}, RESULTS]})) == ("t1",)
    assert results_in(b"{") == results_in(b'{"messages":[]}') == results_in(b'{"messages":[{"content":"x"}]}') == ()
