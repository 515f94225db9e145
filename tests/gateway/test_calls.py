"""A model call from end to end: through a real gateway and log to a provider that tests script."""

import asyncio
from decimal import Decimal

import orjson
import pytest

from events.ledger import NotGranted
from events.words import OnExhausted
from services.kit.bus import Bus
from tests.gateway.ledger import cost
from tests.gateway.provider import USAGE, anthropic_events, event, provider, saying, streaming
from tests.gateway.world import ASK, KEY, MESSAGES, STREAM, a_world
from tests.harness import eventually

pytestmark = pytest.mark.timeout(60)


async def test_a_stream_comes_through_byte_by_byte_and_is_settled_with_what_it_used(bus: Bus) -> None:
    events = anthropic_events()
    async with provider(streaming(*events)) as model, a_world(bus, model.url) as world:
        machine = await world.machine()
        raw = orjson.dumps(STREAM, option=orjson.OPT_INDENT_2)
        status, body = await world.said(machine, raw)
        assert (status, body) == (200, b"".join(events))
        await world.resolved()
        (settle,) = world.ledger.settled.values()
        told = settle.tokens
        assert (told.input, told.cache_read, told.cache_write_5m, told.cache_write_1h) == (25, 1_000, 60, 40)
        assert (told.output, settle.estimated, settle.stop_reason, settle.request_id) == (
            20,
            False,
            "end_turn",
            "req_1",
        )
        assert model.heard[0][2] == raw, "a request that needs no change is passed on as it is"


async def test_the_provider_sees_the_key_and_the_machine_never_does(bus: Bus) -> None:
    async with provider() as model, a_world(bus, model.url) as world:
        machine = await world.machine()
        async with world.asked(machine, accept_encoding="gzip", anthropic_beta="a,b") as response:
            assert KEY not in str(response.headers) + (await response.text())
        path, headers, _ = model.heard[0]
        assert path == MESSAGES
        assert (headers["x-api-key"], headers["anthropic-beta"], headers["accept-encoding"]) == (KEY, "a,b", "identity")
        assert machine.token not in str(headers)


async def test_nothing_is_forwarded_before_its_worst_case_is_set_aside(bus: Bus) -> None:
    async with provider() as model, a_world(bus, model.url) as world:
        machine = await world.machine()
        world.ledger.gate.clear()
        asking = asyncio.create_task(world.said(machine))
        await eventually(lambda: len(world.ledger.reserved) == 1)
        assert not model.heard
        world.ledger.gate.set()
        assert (await asking)[0] == 200
        (ask,) = world.ledger.reserved.values()
        assert ask.output_tokens_max == 1_000
        assert ask.input_tokens_max >= len(orjson.dumps(STREAM))


async def test_an_answer_that_does_not_stream_is_settled_by_its_usage(bus: Bus) -> None:
    answer: dict[str, object] = {
        "type": "message",
        "content": [],
        "stop_reason": "end_turn",
        "usage": {**USAGE, "output_tokens": 7},
    }
    async with provider(saying(200, answer, request_id="req_9")) as model, a_world(bus, model.url) as world:
        machine = await world.machine()
        async with world.asked(machine, ASK) as response:
            assert await response.json() == answer
            assert response.headers["request-id"] == "req_9"
        await world.resolved()
        assert world.settled() == [(7, False)]


async def test_without_budget_a_call_ends_with_one_refusal_and_nothing_is_forwarded(bus: Bus) -> None:
    async with provider() as model, a_world(bus, model.url) as world:
        machine = await world.machine()
        said = "asked 0.02 CAD, 0.01 CAD are there; autovibe budget top-up webshop 1CAD"
        world.ledger.refuses = NotGranted(
            call_id=machine.machine_id, code="exhausted", action=OnExhausted.PARK, message=said
        )
        async with world.asked(machine) as response:
            assert (response.status, response.headers["x-should-retry"]) == (400, "false")
            assert (await response.json())["error"] == {"type": "billing_error", "message": said}
        assert not model.heard
        assert not world.ledger.open


async def test_max_tokens_is_lowered_to_what_is_granted_and_no_other_byte_changes(bus: Bus) -> None:
    async with provider() as model, a_world(bus, model.url) as world:
        machine = await world.machine()
        world.ledger.output_granted = 300
        raw = b'{ "stream":true,"model" : "claude-sonnet-5",\n"max_tokens" :  1000, "messages":[{"role":"user","content":"hi"}]}'
        assert (await world.said(machine, raw))[0] == 200
        assert model.heard[0][2] == raw.replace(b"1000", b"300")


async def test_a_request_without_max_tokens_is_bounded(bus: Bus) -> None:
    async with provider() as model, a_world(bus, model.url) as world:
        machine = await world.machine()
        body = {key: value for key, value in STREAM.items() if key != "max_tokens"}
        assert (await world.said(machine, body))[0] == 200
        assert model.body()["max_tokens"] == 8_192
        (ask,) = world.ledger.reserved.values()
        assert ask.output_tokens_max == 8_192


@pytest.mark.parametrize("status", [400, 401, 403, 404, 413, 500])
async def test_a_providers_error_reaches_the_client_as_it_is_and_costs_nothing(bus: Bus, status: int) -> None:
    error = {"type": "error", "error": {"type": "some_error", "message": "no"}, "request_id": "req_7"}
    async with (
        provider(saying(status, error, request_id="req_7", retry_after="7")) as model,
        a_world(bus, model.url) as world,
    ):
        machine = await world.machine()
        async with world.asked(machine) as response:
            assert (response.status, await response.json()) == (status, error)
            assert (response.headers["request-id"], response.headers["retry-after"]) == ("req_7", "7")
        await world.resolved()
        (void,) = world.ledger.voided.values()
        assert void.http_status == status


async def test_a_short_rate_limit_is_waited_out_and_the_client_sees_none_of_it(bus: Bus) -> None:
    limited = saying(429, {"error": {}}, retry_after="0.05")
    async with provider(limited, limited, streaming(*anthropic_events())) as model, a_world(bus, model.url) as world:
        machine = await world.machine()
        assert (await world.said(machine))[0] == 200
        assert len(model.heard) == 3
        await world.resolved()
        assert world.settled() == [(20, False)]


async def test_a_long_rate_limit_holds_each_machine_once_and_asks_the_provider_once(bus: Bus) -> None:
    async with provider(saying(429, {"error": {}}, retry_after="3600")) as model, a_world(bus, model.url) as world:
        ann, bob = await world.machine(), await world.machine()
        for machine in (ann, bob, ann, ann):
            async with world.asked(machine) as response:
                assert (response.status, response.headers["x-should-retry"]) == (400, "false")
                assert (await response.json())["error"]["type"] == "billing_error"
        assert len(model.heard) == 1
        log = [recorded async for batch in bus.log.follow(stop_at_end=True) for recorded in batch]
        held = [one.envelope.address.id for one in log if one.envelope.type == "MachineHeld"]
        assert sorted(held) == sorted([str(ann.machine_id), str(bob.machine_id)])
        assert not world.ledger.open


async def test_an_answer_that_is_cut_is_settled_with_what_came(bus: Bus) -> None:
    gate, events = asyncio.Event(), anthropic_events("Hello", " there")[:4]
    cut = streaming(*events, gate=gate, gate_after=4, cut=True)
    async with provider(cut) as model, a_world(bus, model.url) as world:
        machine = await world.machine()
        async with world.asked(machine) as response:
            first = await response.content.readuntil(b' there"}}\n\n')
            gate.set()
            body = first + await response.read()
        assert body.startswith(b"".join(events))
        assert b"event: error\n" in body
        await world.resolved()
        (settle,) = world.ledger.settled.values()
        assert (settle.tokens.input, settle.tokens.cache_write_1h) == (25, 40)
        assert (settle.tokens.output, settle.estimated) == (len("Hello there"), True)
        assert "broke off" in settle.reason


async def test_an_error_within_a_stream_is_passed_on_and_settled_as_an_estimate(bus: Bus) -> None:
    error = event({"type": "error", "error": {"type": "overloaded_error", "message": "later"}}, "error")
    events = [*anthropic_events("Hello")[:3], error]
    async with provider(streaming(*events)) as model, a_world(bus, model.url) as world:
        machine = await world.machine()
        assert await world.said(machine) == (200, b"".join(events))
        await world.resolved()
        (settle,) = world.ledger.settled.values()
        assert (settle.estimated, settle.tokens.output) == (True, 5)
        assert settle.reason == "overloaded_error: later"


async def test_garbage_is_passed_on_and_billed_by_its_bound(bus: Bus) -> None:
    rubbish = [b"data: {\n\n", b"\xff\xfe\n\n", b"event: message_delta\ndata: []\n\n", b"no end"]
    async with provider(streaming(*rubbish)) as model, a_world(bus, model.url) as world:
        machine = await world.machine()
        assert await world.said(machine) == (200, b"".join(rubbish))
        await world.resolved()
        (settle,) = world.ledger.settled.values()
        (ask,) = world.ledger.reserved.values()
        assert (settle.estimated, settle.tokens.input) == (True, ask.input_tokens_max)


async def test_usage_that_is_absent_is_taken_for_the_most_it_can_have_been(bus: Bus) -> None:
    async with (
        provider(streaming(*anthropic_events("Hello", usage={})[:-2])) as model,
        a_world(bus, model.url) as world,
    ):
        machine = await world.machine()
        await world.said(machine)
        await world.resolved()
        (settle,) = world.ledger.settled.values()
        (ask,) = world.ledger.reserved.values()
        assert (settle.estimated, settle.tokens.input, settle.tokens.output) == (True, ask.input_tokens_max, 5)


async def test_an_endless_answer_is_cut_at_its_limit(bus: Bus) -> None:
    filler = anthropic_events("x" * 1_000)[2]
    endless = streaming(*anthropic_events()[:2], *([filler] * 50), gate=asyncio.Event(), gate_after=52)
    async with provider(endless) as model, a_world(bus, model.url, gateway_answer_bytes_max=20_000) as world:
        machine = await world.machine()
        status, body = await world.said(machine)
        assert status == 200
        assert body.endswith(b"\n\n")
        assert b"is longer than 20000 bytes" in body
        await world.resolved()
        assert world.settled()[0][1] is True


async def test_a_client_that_goes_while_it_waits_is_never_forwarded(bus: Bus) -> None:
    async with provider() as model, a_world(bus, model.url) as world:
        machine = await world.machine()
        world.ledger.gate.clear()
        asking = asyncio.create_task(world.said(machine))
        await eventually(lambda: len(world.ledger.reserved) == 1)
        asking.cancel()
        await eventually(lambda: len(world.ledger.voided) == 1)
        world.ledger.gate.set()
        await eventually(lambda: world.gateway.in_flight.total == 0)
        assert not model.heard


async def test_a_client_that_goes_while_it_streams_is_settled_with_the_rest(bus: Bus) -> None:
    gate, events = asyncio.Event(), anthropic_events()
    async with provider(streaming(*events, gate=gate, gate_after=3)) as model, a_world(bus, model.url) as world:
        machine = await world.machine()
        async with world.asked(machine) as response:
            await response.content.readuntil(b"Hello")
        await eventually(lambda: world.gateway.in_flight.total == 0)
        gate.set()
        await world.resolved()
        assert world.settled() == [(20, False)]
        assert len(model.heard) == 1


async def test_thirty_calls_at_once_are_all_paid_for_exactly(bus: Bus) -> None:
    async with provider() as model, a_world(bus, model.url) as world:
        machine = await world.machine()
        answers = await asyncio.gather(*(world.said(machine) for _ in range(30)))
        assert [status for status, _ in answers] == [200] * 30
        await world.resolved(30)
        one = cost(next(iter(world.ledger.settled.values())).tokens)
        assert world.ledger.used == 30 * one > Decimal(0)
        assert len(model.heard) == 30


async def test_when_the_budget_is_away_nothing_is_forwarded_and_the_client_may_ask_again(bus: Bus) -> None:
    async with provider() as model, a_world(bus, model.url) as world:
        machine = await world.machine()
        world.ledger.away = 1
        async with world.asked(machine) as response:
            assert (response.status, response.headers["retry-after"]) == (503, "2")
        assert not model.heard
        await world.resolved()


async def test_what_was_used_is_said_again_until_the_budget_hears_it(bus: Bus) -> None:
    gate, events = asyncio.Event(), anthropic_events()
    async with provider(streaming(*events, gate=gate, gate_after=4)) as model, a_world(bus, model.url) as world:
        machine = await world.machine()
        asking = asyncio.create_task(world.said(machine))
        await eventually(lambda: len(world.ledger.observed) == 1)
        world.ledger.away = 3
        gate.set()
        assert (await asking)[0] == 200
        await world.resolved()
        assert world.settled() == [(20, False)]
