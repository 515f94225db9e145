"""Bad input at the door of a hub that runs, in raw NATS: each is refused in words, and the hub goes on."""

import asyncio
import json
import uuid
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import nats
import pytest
from nats.aio.client import Client
from nats.aio.msg import Msg

from events.budget import BudgetAllocated
from events.machine import MachineDenied, MachineProvisioningStarted, MachineRequested
from tests.harness import eventually
from tests.harness.hub import RunningHub
from tests.harness.invariants import all_ended, told
from tests.harness.knocking import knocking

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(120)]

ID = "11111111-2222-4333-8444-555555555555"
MACHINE = f"shop.machine.{ID}.MachineRequested"
GOAL = {"goal": "true", "machine_type": "shell"}
BODY = json.dumps(GOAL).encode()


@dataclass(frozen=True, slots=True)
class Bad:
    """What is published below `in.`, and how the refusal has to name it."""

    subject: str | bytes
    body: bytes
    code: str
    field: str = ""
    value: str = ""
    limit: str = ""


def but(**changed: object) -> bytes:
    """Return the body of a good request, but for these fields."""
    return json.dumps({**GOAL, **changed}).encode()


BAD = {
    "unknown type": Bad(
        f"shop.machine.{ID}.MachineExploded", b"{}", "unknown_type", "type", "MachineExploded", "Machine"
    ),
    "not for outside": Bad(f"shop.machine.{ID}.MachineEnded", b"{}", "not_allowed", "type", "MachineEnded", "Machine"),
    "unknown field": Bad(MACHINE, but(colour="blue"), "bad_body", "colour", "blue"),
    "wrong type": Bad(MACHINE, but(goal=5), "bad_body", "goal", "5"),
    "missing field": Bad(MACHINE, b'{"machine_type": "shell"}', "bad_body", "goal"),
    "too long": Bad(
        "shop.project.shop.ProjectUpdated",
        json.dumps({"description": "x" * 5_000}).encode(),
        "bad_body",
        "description",
        "xxx",
        "max_length 4096",
    ),
    "goal of 100 kB": Bad(MACHINE, but(goal="x" * 100_000), "bad_body", "goal", "xxx", "max_length 65536"),
    "not json": Bad(MACHINE, b"{", "bad_body", "body"),
    "no object": Bad(MACHINE, b"[]", "bad_body", "body"),
    "deeply nested": Bad(MACHINE, b"[" * 100_000, "bad_body", "body"),
    "not utf-8": Bad(MACHINE, b'{"goal": "\xff"}', "bad_body", "body"),
    "half a surrogate": Bad(MACHINE, rb'{"goal": "\ud800", "machine_type": "shell"}', "bad_body"),
    "nul": Bad(MACHINE, but(goal="a\0b"), "bad_body", "goal"),
    "subject not utf-8": Bad(b"shop.machine.\xff\xfe.MachineRequested", BODY, "bad_subject", "subject"),
    "subject with a tab": Bad(b"shop.machine.a\x0bb.MachineRequested", BODY, "bad_subject", "subject"),
    "300 kB": Bad(MACHINE, but(goal="x" * 300_000), "too_large", "body", "300", "262144 bytes"),
    "odd token": Bad(f"shop.machine.{ID}$.MachineRequested", BODY, "bad_subject", "subject", "$"),
    "too few tokens": Bad("shop.machine", BODY, "bad_subject", "subject", "in.shop.machine"),
    "too many tokens": Bad(f"{MACHINE}.more", BODY, "bad_subject", "subject", ".more"),
    "no uuid": Bad("shop.machine.number-7.MachineRequested", BODY, "bad_subject", "subject", "number-7"),
    "no such project": Bad(f"nothing.machine.{ID}.MachineRequested", BODY, "no_such_project", "project", "nothing"),
    "no such checkpoint": Bad(MACHINE, but(from_checkpoint_id=ID), "no_such_checkpoint", "checkpoint_id", ID),
    "no such machine": Bad(f"shop.machine.{ID}.MachineStopRequested", b"{}", "no_such_machine", "machine_id", ID),
    "negative money": Bad(MACHINE, but(budget="-1"), "bad_body", "budget", "-1", "ge 0"),
    "nan": Bad(MACHINE, but(budget="NaN"), "bad_body", "budget", "NaN"),
    "money as a float": Bad(MACHINE, but(budget=1.5), "bad_body", "budget", "1.5"),
    "negative cap": Bad(
        "shop.budget.shop.BudgetRequested", b'{"amount": "-5", "unit": "CAD"}', "bad_body", "amount", "-5", "ge 0"
    ),
    "unknown machine type": Bad(MACHINE, but(machine_type="quantum"), "bad_body", "machine_type", "quantum", "shell"),
    "limits below zero": Bad(MACHINE, but(limits={"memory_mib": -1}), "bad_body", "limits.memory_mib", "-1", "ge 16"),
    "file outside": Bad(MACHINE, but(files=[{"path": "../x", "text": ""}]), "bad_body", "files.0.path", "../x"),
}


async def test_every_bad_input_is_refused_with_what_and_why_and_the_hub_goes_on(hub: RunningHub) -> None:
    async with knocking(hub) as knocks:
        await knocks.project("shop")
        end = len((await told(hub)).events)
        async with _refusals(hub) as (client, heard):
            for name, bad in BAD.items():
                _publish(client, bad.subject, bad.body, name)
            await client.flush()
            await eventually(lambda: set(heard) == set(BAD), timeout_s=30)
        wrong = {name: heard[name]["problem"] for name, bad in BAD.items() if not _names(heard[name], bad)}
        assert not wrong, json.dumps(wrong, indent=1)
        said = [r.event.type() for r in (await told(hub)).events[end:] if r.envelope.address.project == "shop"]
        assert not [type_ for type_ in said if type_ in {"MachineRequested", "ProjectUpdated", "BudgetRequested"}], said
        good = await knocks.machine("shop", "true")
        assert (await all_ended(hub, [good])).ended(good)


async def test_a_checkpoint_of_another_project_does_not_exist(hub: RunningHub) -> None:
    async with knocking(hub) as knocks:
        await knocks.project("own")
        await knocks.project("foreign")
        theirs = await knocks.machine("foreign", "echo secret > secret")
        ended = (await all_ended(hub, [theirs])).ended(theirs)
        assert ended is not None
        body = but(from_checkpoint_id=str(ended.checkpoint_id))
        refused = await _refusal(hub, f"own.machine.{uuid.uuid4()}.MachineRequested", body)
        assert (refused["code"], refused["field"]) == ("no_such_checkpoint", "checkpoint_id")
        assert refused["value"] == str(ended.checkpoint_id)


async def test_a_body_larger_than_the_protocol_allows_ends_only_the_connection_that_sent_it(hub: RunningHub) -> None:
    closed = asyncio.Event()

    async def on_close() -> None:
        closed.set()

    client = await nats.connect(
        hub.context.nats_url, user_credentials=hub.context.creds, closed_cb=on_close, allow_reconnect=False
    )
    try:
        # The line is enough: the server cuts the connection before the body, and with it in flight the error is lost.
        _write(client, f"PUB in.{MACHINE} 1100000\r\n".encode())
        async with asyncio.timeout(10):
            await closed.wait()
        assert "maximum payload violation" in str(client.last_error).lower()
    finally:
        await client.close()
    async with knocking(hub) as knocks:
        await knocks.project("after-large")


async def test_an_id_used_again_for_something_else_is_refused_and_the_first_stays(hub: RunningHub) -> None:
    async with knocking(hub) as knocks:
        await knocks.project("reused")
        machine = str(uuid.uuid4())
        subject = f"reused.machine.{machine}.MachineRequested"
        async with _refusals(hub) as (client, heard):
            _publish(client, subject, BODY, "mine")
            await client.flush()
            await eventually(lambda: _requested(hub, machine), poll_s=0.2)
            _publish(client, subject, but(goal="something else"), "mine")
            await client.flush()
            await eventually(lambda: "mine" in heard, timeout_s=20)
        assert heard["mine"]["problem"]["code"] in {"id_reused", "conflict"}
        (request,) = [e for e in (await all_ended(hub, [machine])).machine(machine) if isinstance(e, MachineRequested)]
        assert request.goal == "true"


async def test_a_request_delivered_again_and_again_boots_one_machine(hub: RunningHub) -> None:
    async with knocking(hub) as knocks:
        await knocks.project("again")
        machine = str(uuid.uuid4())
        async with _refusals(hub) as (client, _):
            subject = f"in.again.machine.{machine}.MachineRequested"
            for headers in ({"Nats-Msg-Id": "once"}, {"Nats-Msg-Id": "once"}, {"ce-id": "once"}, None, None):
                await client.publish(subject, BODY, headers=headers)
            await client.flush()
            story = await all_ended(hub, [machine])
            for headers in ({"Nats-Msg-Id": "once"}, None):
                await client.publish(subject, BODY, headers=headers)
            await client.flush()
        later = await knocks.machine("again", "true")
        story = await all_ended(hub, [machine, later])
        happened = [event.type() for event in story.machine(machine)]
        assert happened.count("MachineRequested") == happened.count("MachineEnded") == 1, happened
        assert [event.epoch for event in story.machine(machine) if isinstance(event, MachineProvisioningStarted)] == [1]


async def test_nothing_is_a_valid_budget_and_buys_nothing(hub: RunningHub) -> None:
    async with knocking(hub) as knocks:
        await knocks.project("nothing-to-spend", budget="0")
        machine = await knocks.machine("nothing-to-spend", "true")
        story = await all_ended(hub, [machine])
        caps = [e.amount for e in story.machine("nothing-to-spend") if isinstance(e, BudgetAllocated)]
        assert caps == [0]
        assert any(isinstance(event, MachineDenied) for event in story.machine(machine))


@asynccontextmanager
async def _refusals(hub: RunningHub) -> AsyncGenerator[tuple[Client, dict[str, dict[str, dict[str, str]]]]]:
    """Give the operator's connection and the refusals that it hears, by what the sender calls its message."""
    heard: dict[str, dict[str, dict[str, str]]] = {}

    async def on_refusal(message: Msg) -> None:
        record = json.loads(message.data)
        heard[record.get("client_id", "")] = record

    client = await nats.connect(hub.context.nats_url, user_credentials=hub.context.creds)
    try:
        await client.subscribe("rejected.>", cb=on_refusal)
        await client.flush()
        yield client, heard
    finally:
        await client.close()


async def _refusal(hub: RunningHub, subject: str, body: bytes) -> dict[str, str]:
    async with _refusals(hub) as (client, heard):
        _publish(client, subject, body, "this")
        await client.flush()
        await eventually(lambda: "this" in heard, timeout_s=20)
    return heard["this"]["problem"]


def _publish(client: Client, subject: str | bytes, body: bytes, name: str) -> None:
    """Write to the connection what no client library would: any bytes as subject."""
    header = f"NATS/1.0\r\nce-id: {name.replace(' ', '%20')}\r\n\r\n".encode()
    where = b"in." + (subject.encode() if isinstance(subject, str) else subject)
    _write(client, b"HPUB %b %d %d\r\n%b%b\r\n" % (where, len(header), len(header) + len(body), header, body))


def _write(client: Client, protocol: bytes) -> None:
    transport = client._transport  # pyright: ignore[reportPrivateUsage]  # no public way to write what is not allowed
    assert transport is not None
    transport.write(protocol)


def _names(record: dict[str, dict[str, str]], bad: Bad) -> bool:
    """Whether a refusal says which field, which value, which limit."""
    problem = record["problem"]
    return (
        problem["code"] == bad.code
        and bool(problem["message"])
        and bad.field in problem.get("field", "")
        and bad.value in problem.get("value", "")
        and bad.limit in problem.get("limit", "")
    )


async def _requested(hub: RunningHub, machine: str) -> bool:
    return any(isinstance(event, MachineRequested) for event in (await told(hub)).machine(machine))
