"""Chat completions and embeddings, as a local server of models speaks them too."""

import orjson
import pytest

from events.ledger import NotGranted
from services.kit.bus import Bus
from tests.gateway.provider import event, provider, saying, streaming
from tests.gateway.world import a_world

pytestmark = pytest.mark.timeout(60)
CHAT = "/v1/chat/completions"
ASK: dict[str, object] = {"model": "qwen3", "stream": True, "messages": [{"role": "user", "content": "hi"}]}
USED = {
    "prompt_tokens": 100,
    "completion_tokens": 30,
    "total_tokens": 130,
    "prompt_tokens_details": {"cached_tokens": 40},
}
NOWHERE = "http://127.0.0.1:9"


def chunk(content: str | None = None, finish: str | None = None, usage: object = None) -> bytes:
    choices = [{"index": 0, "delta": {"content": content} if content else {}, "finish_reason": finish}]
    return event({"id": "c1", "choices": [] if usage else choices, "usage": usage})


EVENTS = [chunk("Hel"), chunk("lo"), chunk(finish="stop"), chunk(usage=USED), b"data: [DONE]\n\n"]


@pytest.mark.parametrize("size", [1, 7, 10_000])
async def test_a_client_that_did_not_ask_for_usage_does_not_get_it_and_is_metered_all_the_same(
    bus: Bus, size: int
) -> None:
    stream = b"".join(EVENTS)
    pieces = [stream[at : at + size] for at in range(0, len(stream), size)]
    async with provider(streaming(*pieces)) as model, a_world(bus, NOWHERE, model.url) as world:
        machine = await world.machine()
        status, body = await world.said(machine, ASK, CHAT)
        assert (status, body) == (200, b"".join([*EVENTS[:3], EVENTS[4]]))
        assert model.body()["stream_options"] == {"include_usage": True}
        assert model.body()["max_tokens"] == 8_192
        assert model.heard[0][1]["authorization"] == "Bearer sk-ant-the-real-one"
        await world.resolved()
        (settle,) = world.ledger.settled.values()
        assert (settle.tokens.input, settle.tokens.cache_read, settle.tokens.output) == (60, 40, 30)
        assert (settle.estimated, settle.stop_reason) == (False, "stop")


async def test_a_client_that_asked_for_usage_gets_every_byte(bus: Bus) -> None:
    asked = {**ASK, "max_tokens": 10, "stream_options": {"include_usage": True}}
    async with provider(streaming(*EVENTS)) as model, a_world(bus, NOWHERE, model.url) as world:
        machine = await world.machine()
        raw = orjson.dumps(asked)
        assert await world.said(machine, raw, CHAT) == (200, b"".join(EVENTS))
        assert model.heard[0][2] == raw


async def test_a_server_that_says_no_usage_is_billed_by_what_it_said(bus: Bus) -> None:
    async with provider(streaming(*EVENTS[:3], EVENTS[4])) as model, a_world(bus, NOWHERE, model.url) as world:
        machine = await world.machine()
        assert (await world.said(machine, ASK, CHAT))[0] == 200
        await world.resolved()
        assert world.settled() == [(len("Hello"), True)]


async def test_several_answers_are_all_set_aside_for(bus: Bus) -> None:
    async with provider(streaming(*EVENTS)) as model, a_world(bus, NOWHERE, model.url) as world:
        machine = await world.machine()
        world.ledger.output_granted = 50
        assert (await world.said(machine, {**ASK, "n": 4, "max_completion_tokens": 100}, CHAT))[0] == 200
        (ask,) = world.ledger.reserved.values()
        assert ask.output_tokens_max == 400
        assert model.body()["max_completion_tokens"] == 12


async def test_embeddings_have_no_output(bus: Bus) -> None:
    answer: dict[str, object] = {"object": "list", "data": [], "usage": {"prompt_tokens": 8, "total_tokens": 8}}
    async with provider(saying(200, answer)) as model, a_world(bus, NOWHERE, model.url) as world:
        machine = await world.machine()
        status, body = await world.said(machine, {"model": "embed", "input": "hi"}, "/v1/embeddings")
        assert (status, orjson.loads(body)) == (200, answer)
        await world.resolved()
        (settle,) = world.ledger.settled.values()
        assert (settle.tokens.input, settle.tokens.output, settle.estimated) == (8, 0, False)


async def test_a_refusal_is_in_the_words_of_the_protocol(bus: Bus) -> None:
    async with provider() as model, a_world(bus, NOWHERE, model.url) as world:
        machine = await world.machine()
        world.ledger.refuses = NotGranted(call_id=machine.machine_id, code="exhausted", message="nothing left")
        async with world.asked(machine, ASK, CHAT) as response:
            assert (response.status, response.headers["x-should-retry"]) == (400, "false")
            error = (await response.json())["error"]
        assert error == {"message": "nothing left", "type": "billing_error", "param": None, "code": "billing_error"}


async def test_a_provider_that_is_not_there_costs_nothing(bus: Bus) -> None:
    async with a_world(bus, NOWHERE) as world:
        machine = await world.machine()
        async with world.asked(machine) as response:
            assert (response.status, response.headers["retry-after"]) == (503, "5")
        await world.resolved()
        assert not world.ledger.settled
