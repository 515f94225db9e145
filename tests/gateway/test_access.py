"""Who may call what: only the newest incarnation of a machine, only models of its project, only what there is."""

import asyncio
from typing import Any

import orjson
import pytest
from structlog.testing import capture_logs

from events import address as at
from events import machine as m
from events.fresh import uuid7
from events.ledger import NotGranted
from events.words import Hold
from services.gateway.account import refusal_of
from services.kit.bus import Bus
from tests.gateway.provider import anthropic_events, provider, saying, streaming
from tests.gateway.world import ASK, MESSAGES, SHOP, STREAM, Machine, World, a_world
from tests.harness import eventually

pytestmark = pytest.mark.timeout(60)


async def refused(
    world: World, machine: Machine | None, body: object = STREAM, path: str = MESSAGES
) -> tuple[int, str, str]:
    async with world.asked(machine, body, path) as response:
        error: dict[str, Any] = (await response.json())["error"]
        return response.status, response.headers.get("x-should-retry", ""), error["type"]


async def test_a_token_that_is_forged_old_revoked_or_missing_ends_with_one_refusal(bus: Bus) -> None:
    async with provider() as model, a_world(bus, model.url) as world:
        machine = await world.machine()
        assert (await world.said(machine))[0] == 200
        told = (401, "false", "authentication_error")
        assert await refused(world, None) == told
        assert await refused(world, Machine(machine.machine_id, "forged", machine.credential_id)) == told
        old = Machine(machine.machine_id, await world.next_epoch(machine), machine.credential_id)
        assert await refused(world, old) == told
        assert (await world.said(machine))[0] == 200
        await world.revoke(machine)
        assert await refused(world, machine) == told
        assert len(model.heard) == 2


async def test_a_token_shown_by_another_spends_only_its_own_machines_money_and_ends_with_that_machine(bus: Bus) -> None:
    async with provider() as model, a_world(bus, model.url) as world:
        ann, bob = await world.machine(), await world.machine()
        thief = Machine(bob.machine_id, ann.token, bob.credential_id)
        assert (await world.said(thief))[0] == 200
        await world.resolved()
        assert [ask.machine_id for ask in world.ledger.reserved.values()] == [ann.machine_id]
        await world.happen(at.machine(SHOP, ann.machine_id), m.MachineParked(epoch=1, hold=Hold.USER))
        assert (await refused(world, thief))[0] == 401
        assert (await world.said(bob))[0] == 200, "its own goes on"


async def test_a_machine_that_has_ended_may_call_no_more(bus: Bus) -> None:
    async with provider() as model, a_world(bus, model.url) as world:
        machine = await world.machine()
        parked = m.MachineParked(epoch=1, hold=Hold.USER)
        await world.happen(at.machine(SHOP, machine.machine_id), parked)
        assert (await refused(world, machine))[0] == 401
        assert not model.heard


async def test_both_ways_to_show_a_token_count(bus: Bus) -> None:
    async with provider() as model, a_world(bus, model.url) as world:
        machine = await world.machine()
        async with world.asked(None, x_api_key=machine.token) as response:
            assert response.status == 200


async def test_a_call_of_an_incarnation_that_is_over_is_cut_and_settled(bus: Bus) -> None:
    gate = asyncio.Event()
    slow = streaming(*anthropic_events(), gate=gate, gate_after=3)
    async with provider(slow) as model, a_world(bus, model.url) as world:
        machine = await world.machine()
        asking = asyncio.create_task(world.said(machine))
        await eventually(lambda: len(world.ledger.observed) == 1)
        await world.next_epoch(machine)
        with pytest.raises(Exception, match=r"payload|disconnected|reset"):
            await asking
        gate.set()
        await world.resolved()
        assert world.settled() == [(20, False)]


async def test_a_machine_that_is_to_park_is_refused_and_nothing_is_asked_of_the_budget(bus: Bus) -> None:
    async with provider() as model, a_world(bus, model.url) as world:
        machine = await world.machine()
        address = at.machine(SHOP, machine.machine_id)
        await world.happen(address, m.MachineHeld(epoch=1, hold=Hold.BUDGET, reason="2 CAD are used up"))
        with capture_logs() as lines:
            assert await refused(world, machine) == (400, "false", "billing_error")
        assert [(line["machine_id"], line["kind"]) for line in lines if line["event"] == "call.refused"] == [
            (str(machine.machine_id), "billing_error")
        ]
        assert not world.ledger.reserved
        await world.happen(address, m.MachineResumed(hold=Hold.BUDGET))
        assert (await world.said(machine))[0] == 200


async def test_a_model_that_the_project_does_not_allow_is_refused(bus: Bus) -> None:
    async with provider() as model, a_world(bus, model.url) as world:
        await world.project("claude-sonnet-*")
        machine = await world.machine()
        assert (await world.said(machine))[0] == 200
        assert await refused(world, machine, {**STREAM, "model": "claude-opus-5"}) == (400, "false", "billing_error")
        assert len(model.heard) == 1


async def test_a_model_that_nobody_offers_is_refused_as_a_short_budget_is_which_no_client_asks_again(bus: Bus) -> None:
    async with provider() as model, a_world(bus, model.url) as world:
        machine = await world.machine()
        path = "/v1/chat/completions"
        assert await refused(world, machine, {**STREAM, "model": "nobody/nothing"}, path) == (
            400,
            "false",
            "billing_error",
        )
        assert not model.heard


def test_a_model_without_a_price_is_refused_in_the_same_shape() -> None:
    refusal = refusal_of(NotGranted(call_id=uuid7(), code="unknown_model", message="no price is known of x"))
    assert (refusal.status, refusal.kind, refusal.code) == (400, "billing_error", "unknown_model")
    assert refusal.headers() == {"x-should-retry": "false"}


@pytest.mark.parametrize(
    "twice",
    [
        b'{"model":"claude-opus-5","model":"claude-sonnet-5","max_tokens":5,"messages":[]}',
        b'{"m\\u006fdel":"claude-opus-5","model":"claude-sonnet-5","max_tokens":5,"messages":[]}',
        b'{"model":"claude-sonnet-5","max_tokens":5,"messages":[],"max_tokens":7}',
    ],
)
async def test_the_provider_reads_a_request_as_it_was_judged(bus: Bus, twice: bytes) -> None:
    answer: dict[str, object] = {"content": [], "usage": {"input_tokens": 1, "output_tokens": 1}}
    async with provider(saying(200, answer)) as model, a_world(bus, model.url) as world:
        machine = await world.machine()
        assert (await world.said(machine, twice))[0] == 200
        (ask,) = world.ledger.reserved.values()
        forwarded = model.heard[0][2]
        assert forwarded.count(b"del") == forwarded.count(b"max_tokens") == 1
        assert (ask.model, ask.output_tokens_max) == (model.body()["model"], model.body()["max_tokens"])


async def test_a_request_of_forty_megabytes_is_refused(bus: Bus) -> None:
    async with provider() as model, a_world(bus, model.url) as world:
        machine = await world.machine()
        huge = orjson.dumps({**STREAM, "messages": [{"role": "user", "content": "x" * 40_000_000}]})
        assert await refused(world, machine, huge) == (413, "false", "request_too_large")
        assert not world.ledger.reserved


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b'{"max_tokens":5}', b'{"model":7}', b"\xff\xfe"])
async def test_what_is_no_request_is_refused_and_costs_nothing(bus: Bus, body: bytes) -> None:
    async with provider() as model, a_world(bus, model.url) as world:
        machine = await world.machine()
        assert await refused(world, machine, body) == (400, "false", "invalid_request_error")
        assert not model.heard


async def test_tools_that_run_at_the_provider_are_refused_unless_they_are_allowed_and_bounded(bus: Bus) -> None:
    tools: list[dict[str, object]] = [
        {"type": "web_search_20250305", "name": "web_search", "max_uses": 50},
        {"name": "bash", "input_schema": {}},
    ]
    async with provider() as model:
        async with a_world(bus, model.url) as world:
            machine = await world.machine()
            assert (await refused(world, machine, {**STREAM, "tools": tools}))[0] == 400
        async with a_world(bus, model.url, gateway_server_tools_uses_max=3) as world:
            machine = await world.machine()
            assert (await world.said(machine, {**STREAM, "tools": tools}))[0] == 200
            (ask,) = world.ledger.reserved.values()
            assert ask.server_tools == {"web_search": 3}
            assert model.heard[0][2].count(b'"max_uses":3') == 1


async def test_models_are_listed_as_the_asker_speaks(bus: Bus) -> None:
    listing = {"data": [{"id": "claude-sonnet-5"}, {"id": "claude-opus-5"}]}
    async with provider(saying(200, listing)) as model, a_world(bus, model.url) as world:
        await world.project("claude-sonnet-*")
        machine = await world.machine()
        headers = {"x-api-key": machine.token, "anthropic-version": "2023-06-01"}
        async with world.session.get(f"{world.url}/v1/models", headers=headers) as response:
            found = await response.json()
        assert [entry["id"] for entry in found["data"]] == ["claude-sonnet-5"]
        assert found["has_more"] is False
        async with world.session.get(f"{world.url}/v1/models/claude-opus-5", headers=headers) as response:
            assert (response.status, (await response.json())["type"]) == (404, "error")
        async with world.session.get(f"{world.url}/v1/models") as response:
            assert (response.status, list(await response.json())) == (401, ["error"])


async def test_tokens_are_counted_by_the_provider_and_cost_nothing(bus: Bus) -> None:
    async with provider(saying(200, {"input_tokens": 12})) as model, a_world(bus, model.url) as world:
        machine = await world.machine()
        assert await world.said(machine, ASK, "/v1/messages/count_tokens") == (200, b'{"input_tokens":12}')
        assert not world.ledger.reserved


async def test_there_is_nothing_else(bus: Bus) -> None:
    async with provider() as model, a_world(bus, model.url) as world:
        machine = await world.machine()
        for path in ("/v1/messages/batches", "/v1/complete", "/", "/v1/responses"):
            assert (await world.said(machine, ASK, path))[0] == 404
        assert not model.heard
