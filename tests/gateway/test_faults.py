"""What providers, clients and clocks can do wrong: it is passed on as it is, resolved once, and never counted too low."""

import asyncio
from datetime import UTC, datetime, timedelta

import aiohttp
import pytest
from aiohttp import web

from services.gateway import account, ratelimited
from services.kit.bus import Bus
from tests.gateway.provider import Answer, anthropic_events, event, provider, saying, streaming
from tests.gateway.world import ASK, STREAM, World, a_world
from tests.harness import eventually

pytestmark = pytest.mark.timeout(60)
OVERLOADED = {"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}}


def hanging_up(after: bytes = b"", *, heads: bool = True) -> Answer:
    """Hang up on whoever asks: before any answer, or after its head and these bytes."""

    async def answer(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"content-type": "text/event-stream"})
        if heads:
            await response.prepare(request)
            await response.write(after)
            await asyncio.sleep(0)
        assert request.transport is not None
        request.transport.abort()
        return response

    return answer


async def all_set_aside(world: World) -> bool:
    """Wait until the call is over; return whether all that was set aside is counted, and said to be an estimate."""
    await world.resolved()
    (settle,), (ask,) = world.ledger.settled.values(), world.ledger.reserved.values()
    tokens = settle.tokens
    return settle.estimated and (tokens.input, tokens.output) == (ask.input_tokens_max, ask.output_tokens_max)


async def test_an_overload_that_lasts_reaches_the_client_as_it_is_and_costs_nothing(bus: Bus) -> None:
    async with provider(saying(529, OVERLOADED, retry_after="3600")) as model, a_world(bus, model.url) as world:
        machine = await world.machine()
        async with world.asked(machine) as response:
            assert (response.status, await response.json()) == (529, OVERLOADED)
        await world.resolved()
        (void,) = world.ledger.voided.values()
        assert void.http_status == 529
        assert len(model.heard) == 1


@pytest.mark.parametrize("status", [429, 529])
async def test_a_refusal_that_says_not_for_how_long_is_asked_again_after_pauses_that_grow(
    bus: Bus, status: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ratelimited, "FIRST_S", 0.05)
    refused = saying(status, OVERLOADED)
    async with provider(refused, refused, streaming(*anthropic_events())) as model, a_world(bus, model.url) as world:
        machine = await world.machine()
        loop = asyncio.get_running_loop()
        began = loop.time()
        assert (await world.said(machine))[0] == 200
        assert loop.time() - began >= 0.05 + 0.10
        assert len(model.heard) == 3
        await world.resolved()
        assert world.settled() == [(20, False)]


async def test_a_clients_retry_is_another_call_and_both_are_metered(bus: Bus) -> None:
    gate, events = asyncio.Event(), anthropic_events("Hello")
    cut = streaming(*events[:3], gate=gate, gate_after=3, cut=True)
    async with provider(cut, streaming(*events)) as model, a_world(bus, model.url) as world:
        machine = await world.machine()
        for number in ("0", "1"):
            async with world.asked(machine, x_stainless_retry_count=number) as response:
                await response.content.readuntil(b"Hello")
                gate.set()
                await response.read()
        await world.resolved(2)
        assert world.settled() == [(5, True), (20, False)]
        assert len(world.ledger.reserved) == len(model.heard) == 2


@pytest.mark.parametrize("asked", [ASK, STREAM], ids=["whole", "streaming"])
async def test_a_provider_that_hangs_up_without_a_word_may_have_done_all_of_the_work(
    bus: Bus, asked: dict[str, object]
) -> None:
    async with provider(hanging_up(heads=False)) as model, a_world(bus, model.url) as world:
        machine = await world.machine()
        assert (await world.said(machine, asked))[0] == 503
        assert await all_set_aside(world)


@pytest.mark.parametrize("begun", [b"", b"event: mess", b"data: {\n\n"], ids=["empty", "amid an event", "garbage"])
async def test_an_answer_cut_before_anything_could_be_read_of_it_may_have_cost_all_that_was_set_aside(
    bus: Bus, begun: bytes
) -> None:
    async with provider(hanging_up(begun)) as model, a_world(bus, model.url) as world:
        machine = await world.machine()
        status, body = await world.said(machine)
        assert status == 200
        assert b"event: error\n" in body
        assert await all_set_aside(world)


async def test_an_error_before_the_first_token_of_a_stream_costs_nothing(bus: Bus) -> None:
    error = event(OVERLOADED, "error")
    async with provider(streaming(error)) as model, a_world(bus, model.url) as world:
        machine = await world.machine()
        assert await world.said(machine) == (200, error)
        await world.resolved()
        (void,) = world.ledger.voided.values()
        assert "Overloaded" in void.reason


async def test_usage_that_contradicts_itself_is_counted_as_it_was_said_most(bus: Bus) -> None:
    events = anthropic_events(usage={"input_tokens": 90, "output_tokens": 40}, output=7)
    async with provider(streaming(*events)) as model, a_world(bus, model.url) as world:
        machine = await world.machine()
        assert await world.said(machine) == (200, b"".join(events))
        await world.resolved()
        (settle,) = world.ledger.settled.values()
        assert (settle.tokens.input, settle.tokens.output, settle.estimated) == (90, 40, False)


async def test_an_answer_cut_after_it_said_its_use_so_far_is_no_less_than_what_came(bus: Bus) -> None:
    so_far = event({"type": "message_delta", "delta": {}, "usage": {"output_tokens": 3}}, "message_delta")
    begun = b"".join(anthropic_events("Hello")[:3])
    async with provider(hanging_up(begun + so_far)) as model, a_world(bus, model.url) as world:
        machine = await world.machine()
        assert (await world.said(machine))[0] == 200
        await world.resolved()
        assert world.settled() == [(len("Hello"), True)]


async def test_a_provider_that_compresses_though_it_was_asked_not_to_is_counted_by_the_bound(bus: Bus) -> None:
    async def packed(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"content-type": "text/event-stream"})
        response.enable_compression(web.ContentCoding.gzip)
        await response.prepare(request)
        await response.write(b"".join(anthropic_events()))
        await response.write_eof()
        return response

    async with provider(packed) as model, a_world(bus, model.url) as world:
        machine = await world.machine()
        async with (
            aiohttp.ClientSession(auto_decompress=True) as session,
            session.post(
                f"{world.url}/v1/messages", json=STREAM, headers={"authorization": f"Bearer {machine.token}"}
            ) as response,
        ):
            assert await response.read() == b"".join(anthropic_events())
        await world.resolved()
        assert world.settled() in ([(20, False)], [(1_000, True)])


async def test_a_clock_that_is_set_back_and_forth_amid_a_call_changes_neither_its_use_nor_its_order(
    bus: Bus, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate, events, began = asyncio.Event(), anthropic_events(), datetime(2026, 11, 1, tzinfo=UTC)
    clock = {"now": began}
    for module in (account, ratelimited):
        monkeypatch.setattr(module, "now", lambda: clock["now"])
    slow = streaming(*events, gate=gate, gate_after=3)
    async with provider(slow) as model, a_world(bus, model.url) as world:
        machine = await world.machine()
        for moved in (timedelta(days=-400), timedelta(days=800)):
            gate.clear()
            asking = asyncio.create_task(world.said(machine))
            count = len(world.ledger.observed) + 1
            await eventually(lambda count=count: len(world.ledger.observed) == count)
            clock["now"] += moved
            gate.set()
            assert (await asking)[0] == 200
        await world.resolved(2)
        for settle in world.ledger.settled.values():
            assert settle.ended_at >= settle.began_at
            assert (settle.first_chunk_ms or 0) < 60_000
        assert world.settled() == [(20, False)] * 2


async def test_a_whole_answer_that_is_too_long_is_refused_and_may_have_cost_all_that_was_set_aside(bus: Bus) -> None:
    endless = saying(200, {"content": [{"type": "text", "text": "x" * 5_000}], "usage": {"input_tokens": 1}})
    async with provider(endless) as model, a_world(bus, model.url, gateway_answer_bytes_max=1_024) as world:
        machine = await world.machine()
        async with world.asked(machine, ASK) as response:
            assert response.status == 502
            assert "more than 1024 bytes" in (await response.json())["error"]["message"]
        assert await all_set_aside(world)


async def test_a_whole_answer_that_is_rubbish_is_passed_on_and_counted_by_its_size(bus: Bus) -> None:
    async with provider(saying(200, b"<html>no</html>")) as model, a_world(bus, model.url) as world:
        machine = await world.machine()
        assert await world.said(machine, ASK) == (200, b"<html>no</html>")
        await world.resolved()
        (settle,), (ask,) = world.ledger.settled.values(), world.ledger.reserved.values()
        assert (settle.tokens.input, settle.tokens.output) == (ask.input_tokens_max, len("<html>no</html>"))
        assert settle.estimated


async def test_an_answer_that_never_ends_is_cut_after_its_time_and_settled_by_what_came(bus: Bus) -> None:
    never = streaming(*anthropic_events("Hello")[:3], gate=asyncio.Event(), gate_after=3)
    async with provider(never) as model, a_world(bus, model.url, gateway_call_s_max=1) as world:
        machine = await world.machine()
        status, body = await world.said(machine)
        assert status == 200
        assert b"event: error\n" in body
        await world.resolved()
        assert world.settled() == [(5, True)]


async def test_a_client_that_goes_while_it_waits_for_a_turn_takes_no_turn_and_leaves_nothing(bus: Bus) -> None:
    gate = asyncio.Event()
    slow = streaming(*anthropic_events(), gate=gate, gate_after=1)
    async with provider(slow) as model, a_world(bus, model.url, gateway_machine_concurrent_max=1) as world:
        machine = await world.machine()
        first = asyncio.create_task(world.said(machine))
        await eventually(lambda: len(model.heard) == 1)
        queued = asyncio.create_task(world.said(machine))
        await eventually(lambda: world.gateway.in_flight.open_of(machine.machine_id) == 2)
        queued.cancel()
        await eventually(lambda: world.gateway.in_flight.open_of(machine.machine_id) == 1)
        last = asyncio.create_task(world.said(machine))
        gate.set()
        assert [status for status, _ in (await first, await last)] == [200, 200]
        await world.resolved(2)
        assert len(model.heard) == len(world.ledger.reserved) == 2


async def test_an_openai_stream_that_is_cut_may_have_cost_all_that_was_set_aside(bus: Bus) -> None:
    """It says what it used at its end only, and may think without a word of it."""
    body: dict[str, object] = {"model": "local", "max_tokens": 700, "stream": True, "messages": []}
    async with (
        provider() as other,
        provider(hanging_up(event({"choices": [{"index": 0, "delta": {"content": "Hi"}}]}))) as model,
        a_world(bus, other.url, model.url) as world,
    ):
        machine = await world.machine()
        assert (await world.said(machine, body, "/v1/chat/completions"))[0] == 200
        assert await all_set_aside(world)


async def test_a_gateway_that_is_stopped_amid_a_call_resolves_it_before_it_ends(bus: Bus) -> None:
    never = streaming(*anthropic_events("Hello")[:3], gate=asyncio.Event(), gate_after=3)
    async with provider(never) as model, aiohttp.ClientSession() as session:
        async with a_world(bus, model.url) as world:
            machine = await world.machine()
            named = {"authorization": f"Bearer {machine.token}"}
            response = await session.post(f"{world.url}/v1/messages", json=STREAM, headers=named)
            await eventually(lambda: len(world.ledger.observed) == 1)
            assert world.ledger.open
        assert not world.ledger.open
        assert world.settled() == [(5, True)]
        async with asyncio.timeout(10):
            with pytest.raises(aiohttp.ClientError):
                await response.read()
