"""Calls that are held: for a checkpoint, for budget, for a rate limit; and how a client is kept from giving up."""

import asyncio
from contextlib import AsyncExitStack

import pytest

from events.ledger import NotGranted
from services.gateway.context import CallContext
from services.gateway.limits import Limit, Limits, WaitedTooLong
from services.gateway.usage import Json
from services.kit.bus import Bus
from tests.gateway.provider import USAGE, anthropic_events, event, provider, saying, streaming
from tests.gateway.world import ASK, STREAM, a_world
from tests.harness import eventually

pytestmark = pytest.mark.timeout(60)
PING = b'event: ping\ndata: {"type": "ping"}\n\n'


class Watching:
    """A boundary that a test opens."""

    def __init__(self) -> None:
        self.between, self.risk = asyncio.Event(), asyncio.Event()
        self.bodies: list[Json] = []
        self.tools: list[tuple[str, str]] = []

    async def between_calls(self, call: CallContext, body: Json) -> None:
        del call
        self.bodies.append(body)
        await self.between.wait()

    def risk_watch(self, call: CallContext) -> "Watching":
        del call
        return self

    async def on_tool(self, name: str, input_json: str) -> None:
        self.tools.append((name, input_json))
        await self.risk.wait()


def with_tool() -> list[bytes]:
    block: dict[str, object] = {"type": "tool_use", "id": "t1", "name": "Bash", "input": {}}
    pieces = ['{"command": "rm', ' -rf build"}']
    deltas = [
        {"type": "content_block_delta", "delta": {"type": "input_json_delta", "partial_json": piece}}
        for piece in pieces
    ]
    events = anthropic_events()
    start = event({"type": "content_block_start", "content_block": block})
    return [*events[:-2], start, *map(event, deltas), event({"type": "content_block_stop"}), *events[-2:]]


async def test_a_call_waits_for_the_checkpoint_before_anything_is_set_aside(bus: Bus) -> None:
    boundary = Watching()
    async with provider() as model, a_world(bus, model.url, boundary=boundary) as world:
        machine = await world.machine()
        asking = asyncio.create_task(world.said(machine))
        await eventually(lambda: len(boundary.bodies) == 1)
        assert world.gateway.in_flight.open_of(machine.machine_id) == 1
        assert world.gateway.in_flight.streaming_of(machine.machine_id) == 0
        assert not world.ledger.reserved
        boundary.between.set()
        assert (await asking)[0] == 200


async def test_a_client_that_goes_while_a_checkpoint_holds_its_call_leaves_nothing(bus: Bus) -> None:
    boundary = Watching()
    async with provider() as model, a_world(bus, model.url, boundary=boundary) as world:
        machine = await world.machine()
        asking = asyncio.create_task(world.said(machine))
        await eventually(lambda: len(boundary.bodies) == 1)
        asking.cancel()
        await eventually(lambda: world.gateway.in_flight.total == 0)
        assert not world.ledger.reserved
        boundary.between.set()
        assert (await world.said(machine))[0] == 200, "it asks again, and that is another call"
        await world.resolved()
        assert len(model.heard) == len(world.ledger.reserved) == 1


async def test_a_client_that_goes_while_a_checkpoint_holds_a_risky_tool_call_is_settled_by_what_was_used(
    bus: Bus,
) -> None:
    boundary = Watching()
    boundary.between.set()
    async with provider(streaming(b"".join(with_tool()))) as model, a_world(bus, model.url, boundary=boundary) as world:
        machine = await world.machine()
        asking = asyncio.create_task(world.said(machine))
        await eventually(lambda: len(boundary.tools) == 1)
        asking.cancel()
        await world.resolved()
        assert world.settled() == [(20, False)]
        assert len(model.heard) == 1


@pytest.mark.parametrize("size", [1, 50, 10_000])
async def test_the_end_of_a_tool_call_is_delivered_after_it_was_looked_at(bus: Bus, size: int) -> None:
    boundary, stream = Watching(), b"".join(with_tool())
    boundary.between.set()
    pieces = [stream[at : at + size] for at in range(0, len(stream), size)]
    async with provider(streaming(*pieces)) as model, a_world(bus, model.url, boundary=boundary) as world:
        machine = await world.machine()
        async with world.asked(machine) as response:
            first = await response.content.readuntil(b' -rf build\\"}"}}\n\n')
            await eventually(lambda: boundary.tools == [("Bash", '{"command": "rm -rf build"}')])
            assert first + response.content.read_nowait() in stream
            assert not response.content.at_eof()
            boundary.risk.set()
            assert len(first) < len(stream)
            rest = await response.read()
        assert rest or size
        await world.resolved()
        assert world.settled() == [(20, False)]


async def test_a_whole_answer_with_a_tool_call_waits_too(bus: Bus) -> None:
    boundary = Watching()
    boundary.between.set()
    block = {"type": "tool_use", "id": "t1", "name": "Bash", "input": {"command": "ls"}}
    answer = {"content": [block], "usage": USAGE}
    async with provider(saying(200, answer)) as model, a_world(bus, model.url, boundary=boundary) as world:
        machine = await world.machine()
        asking = asyncio.create_task(world.said(machine, ASK))
        await eventually(lambda: boundary.tools == [("Bash", '{"command":"ls"}')])
        assert not asking.done()
        boundary.risk.set()
        assert (await asking)[0] == 200


async def test_a_stream_that_is_held_for_long_is_kept_alive_and_then_comes_as_it_is(bus: Bus) -> None:
    events = anthropic_events()
    async with (
        provider(streaming(*events)) as model,
        a_world(bus, model.url, gateway_keepalive_after_s=0.05, gateway_keepalive_every_s=0.05) as world,
    ):
        machine = await world.machine()
        world.ledger.gate.clear()
        async with world.asked(machine) as response:
            assert await response.content.readuntil(PING + PING) == PING + PING
            world.ledger.gate.set()
            body = await response.read()
        assert body.replace(PING, b"") == b"".join(events)


async def test_a_refusal_after_signs_of_life_is_an_event(bus: Bus) -> None:
    async with provider() as model, a_world(bus, model.url, gateway_keepalive_after_s=0.05) as world:
        machine = await world.machine()
        world.ledger.gate.clear()
        world.ledger.refuses = NotGranted(call_id=machine.machine_id, code="waited", message="nothing came free")
        async with world.asked(machine) as response:
            await response.content.readuntil(PING)
            world.ledger.gate.set()
            body = await response.read()
        assert body.startswith(b"event: error\ndata: ")
        assert b'"billing_error"' in body
        assert not model.heard


async def test_a_slow_first_byte_is_waited_for_with_signs_of_life(bus: Bus) -> None:
    gate = asyncio.Event()
    slow = streaming(*anthropic_events(), gate=gate, gate_after=0)
    async with provider(slow) as model, a_world(bus, model.url) as world:
        machine = await world.machine()
        asking = asyncio.create_task(world.said(machine))
        await eventually(lambda: len(model.heard) == 1)
        gate.set()
        assert (await asking)[0] == 200


async def test_only_so_many_calls_of_a_machine_are_with_a_provider_at_once(bus: Bus) -> None:
    gate = asyncio.Event()
    slow = streaming(*anthropic_events(), gate=gate, gate_after=1)
    async with provider(slow) as model, a_world(bus, model.url, gateway_machine_concurrent_max=2) as world:
        machine = await world.machine()
        asking = [asyncio.create_task(world.said(machine, STREAM)) for _ in range(5)]
        await eventually(lambda: world.gateway.in_flight.open_of(machine.machine_id) == 5)
        await eventually(lambda: len(model.heard) == 2)
        assert world.gateway.in_flight.streaming_of(machine.machine_id) == 2
        gate.set()
        assert [status for status, _ in await asyncio.gather(*asking)] == [200] * 5


async def test_a_turn_that_does_not_come_is_given_up_and_takes_nothing() -> None:
    limits, slow = Limits(), (("machine 1", Limit(requests_per_minute=1)),)
    async with AsyncExitStack() as places:
        await limits.enter(places, slow, 10, wait_s=1)
        with pytest.raises(WaitedTooLong):
            await limits.enter(places, slow, 10, wait_s=0.05)
        await limits.enter(places, (("machine 2", Limit(requests_per_minute=1)),), 10, wait_s=1)


async def test_a_place_is_given_back_when_its_call_is_over() -> None:
    limits, one = Limits(), (("machine 1", Limit(concurrent_max=1)),)
    async with AsyncExitStack() as places:
        await limits.enter(places, one, 10, wait_s=1)
        with pytest.raises(WaitedTooLong):
            await limits.enter(places, one, 10, wait_s=0.05)
    async with AsyncExitStack() as places:
        await limits.enter(places, one, 10, wait_s=0.05)
