"""Somebody with a little tries to get more: an operator's viewer, an operator, a client that writes the server's headers."""

import json
from uuid import uuid4

import pytest

from events.words import Role
from tests.harness import eventually
from tests.security.conftest import Hub, Person


async def an_operator(hub: Hub, role: Role) -> Person:
    said = await hub.ask_credential(hub.bus.nc, uuid4(), "CredentialRequested", kind="operator", name="eve", role=role)
    return await hub.connect(json.loads(said.data)["creds"], inbox=f"_INBOX_{role}")


@pytest.mark.parametrize("role", [Role.VIEWER, Role.OPERATOR])
async def test_no_lesser_operator_overhears_the_secrets_that_an_admin_is_given(hub: Hub, role: Role) -> None:
    """The answer to a wish for credentials holds them, and comes to the inbox of whoever asked."""
    root, eve = await hub.operator(), await an_operator(hub, role)
    heard = await eve.overhears("_INBOX.>")
    everything = await eve.overhears(">")
    said = await hub.ask_credential(
        root.nc, uuid4(), "CredentialRequested", kind="api_key", name="key", role="admin", projects=[]
    )
    assert json.loads(said.data)["api_key"]
    await eve.arrived()
    assert heard == everything == []


@pytest.mark.parametrize("role", [Role.VIEWER, Role.OPERATOR])
async def test_only_an_admin_makes_credentials(hub: Hub, role: Role) -> None:
    eve = await an_operator(hub, role)
    asked = json.dumps({"kind": "operator", "name": "mallory", "role": "admin"}).encode()
    assert not await eve.may_say(f"ask._hub.credential.{uuid4()}.CredentialRequested", asked)


async def test_an_operator_of_every_role_finds_the_services_and_hears_its_answers(hub: Hub) -> None:
    eve = await an_operator(hub, Role.OPERATOR)
    answer = await eve.nc.request("ask.shop-a.project.shop-a.ProjectCreated", b"{}", timeout=5)
    assert json.loads(answer.data)["seq"] > 0
    viewer = await an_operator(hub, Role.VIEWER)
    assert (await viewer.nc.request("$SRV.PING.autovibe-intake", b"", timeout=5)).data


@pytest.mark.parametrize("before", [b"", b"X-Nats-Request-Info: x\r\n", b"Nats-Request-Info: {}\r\n"])
async def test_nobody_is_somebody_else_by_writing_the_servers_header(hub: Hub, before: bytes) -> None:
    ann, _ = await hub.client("webshop")
    machine = uuid4()
    header = (
        b"NATS/1.0\r\n" + before + b'Nats-Request-Info: {"user": "U", "name_tag": "root"}\r\nce-actor: spawner\r\n\r\n'
    )
    body = b'{"goal":"x","machine_type":"shell"}'
    subject = f"ask.webshop.machine.{machine}.MachineRequested".encode()
    sizes = b"%d %d" % (len(header), len(header) + len(body))
    transport = ann.nc._transport  # pyright: ignore[reportPrivateUsage] # nats-py writes no header twice
    assert transport is not None
    transport.write(b"HPUB %b _INBOX.x %b\r\n%b%b\r\n" % (subject, sizes, header, body))
    await ann.arrived()

    async def requested() -> list[str]:
        return [
            recorded.envelope.cause.actor
            async for batch in hub.bus.log.follow(stop_at_end=True)
            for recorded in batch
            if recorded.envelope.type == "MachineRequested"
        ]

    assert await eventually(requested) == ["client:ann"]


async def test_a_machine_cannot_fill_the_door_with_reports_that_nobody_takes(hub: Hub) -> None:
    """IN is a work queue for everybody: what no consumer hears would stay in it for a day, and a full one refuses all."""
    machine_id = uuid4()
    agent = await hub.machine("webshop", machine_id)
    for rest in ("nobody.AgentRegistered", "x", "spawner", "x.y.z.a.b", "checkpointer"):
        await agent.may_say(f"from.webshop.{machine_id}.1.{rest}")
    assert (await hub.bus.js.stream_info("IN")).state.messages == 0
    for heard in ("spawner.AgentRegistered", "checkpointer.WorkspaceCaptured"):
        assert await agent.may_say(f"from.webshop.{machine_id}.1.{heard}")
