"""A client of one project cannot publish for, hear or learn of another; a machine speaks for itself alone."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from uuid import uuid4

import pytest
from nats.aio.msg import Msg
from nats.errors import NoRespondersError
from nats.errors import TimeoutError as NatsTimeout

from events.address import machine
from events.envelope import Cause
from events.machine import MachineProgressed
from events.words import Role
from services.kit.log import Write
from tests.harness import eventually
from tests.security.conftest import Hub

GOAL = b'{"goal": "make test", "machine_type": "shell"}'


async def test_a_client_does_the_whole_story_with_its_creds_file_and_nothing_else(hub: Hub) -> None:
    ann, _ = await hub.client("webshop")
    heard = await ann.overhears("av.webshop.>")
    machine_id = uuid4()
    published = await ann.nc.jetstream().publish(f"in.webshop.machine.{machine_id}.MachineRequested", GOAL)
    assert published.stream == "IN"
    await eventually(
        lambda: [message.subject for message in heard] == [f"av.webshop.machine.{machine_id}.MachineRequested"]
    )
    assert int((heard[0].headers or {})["Nats-Sequence"]) > 0
    asked = await ann.nc.request(f"ask.webshop.machine.{uuid4()}.MachineRequested", GOAL, timeout=5)
    assert json.loads(asked.data)["seq"] > 0
    refused = await ann.overhears("rejected.webshop.>")
    await ann.nc.jetstream().publish("in.webshop.machine.x.MachineRequested", b"{}")
    await eventually(lambda: len(refused) == 1)


async def test_history_says_which_client_asked_whatever_the_client_says(hub: Hub) -> None:
    ann, _ = await hub.client("webshop", name="ann")
    forged = {"Nats-Request-Info": '{"acc": "x", "user": "y", "name_tag": "bob"}', "ce-actor": "operator:root"}
    machine_id = uuid4()
    await ann.nc.request(f"ask.webshop.machine.{machine_id}.MachineRequested", GOAL, timeout=5, headers=forged)
    recorded = await hub.bus.log.last(machine("webshop", machine_id))
    assert recorded
    assert recorded.envelope.cause.actor == "client:ann"


@pytest.mark.parametrize("role", [Role.VIEWER, Role.OPERATOR])
async def test_no_client_may_hear_or_say_what_is_not_its_projects(hub: Hub, role: Role) -> None:
    ann, _ = await hub.client("webshop", role)
    for subject in (
        "av.other.>", "av.>", "av.*.machine.>", ">", "*.>", "log.>", "log.webshop.>", "live.other.>", "live.>", "in.>",
        "in.webshop.>", "from.>", "from.webshop.>", "out.webshop.>", "beat.webshop.>", "cmd.>", "cmd.webshop.>",
        "rejected.other.>", "ask.webshop.>", "_INBOX_hub.>", f"_INBOX_{uuid4()}.>", "$SYS.>", "$JS.>", "$JS.EVENT.>",
        "$SRV.>", "dead.>", "issuer.>",
    ):  # fmt: skip
        assert not await ann.may_hear(subject), subject
    for subject in (
        "in.other.machine.x.MachineRequested", "ask.other.machine.x.MachineRequested", "ask._hub.credential.x.y",
        "av.webshop.machine.x.MachineEnded", "log.webshop.machine.x.y", "from.webshop.m.1.spawner.AgentFinished",
        "out.webshop.m.1", "beat.webshop.m.1", "cmd.webshop.m.1.Stop", "rejected.webshop.a.b.c", "live.webshop.m.1",
        "$JS.API.INFO", "$JS.API.STREAM.INFO.LOG", "$JS.API.STREAM.DELETE.LOG", "$JS.API.STREAM.MSG.GET.LOG",
        "$JS.API.DIRECT.GET.LOG", "$JS.API.CONSUMER.CREATE.LOG", "$JS.ACK.LOG.x", "$SYS.REQ.ACCOUNT.PING.CONNZ",
        "$SYS.REQ.SERVER.PING", "$SYS.REQ.CLAIMS.UPDATE", "$SYS.REQ.USER.INFO.x", "$SRV.STATS", "issuer.machine",
        "issuer.revoke", "_INBOX_hub.x.y", "_INBOX.x.y", "dead.x.y.1",
    ):  # fmt: skip
        assert not await ann.may_say(subject), subject
    assert await ann.may_say("in.webshop.machine.x.y") is (role is Role.OPERATOR)
    assert await ann.may_say("ask.webshop.machine.x.y") is (role is Role.OPERATOR)


async def test_nothing_of_another_project_reaches_a_client(hub: Hub) -> None:
    ann, _ = await hub.client("webshop")
    bob, _ = await hub.client("other")
    heard = [
        await ann.overhears(subject) for subject in ("av.webshop.>", "live.webshop.>", "rejected.webshop.>", "_INBOX.>")
    ]
    seen_by_bob = await bob.overhears("av.other.>")
    await bob.nc.jetstream().publish(f"in.other.machine.{uuid4()}.MachineRequested", GOAL)
    await bob.nc.jetstream().publish("in.other.machine.x.MachineRequested", GOAL)
    await hub.bus.nc.publish("live.other.m.1", b"output")
    await eventually(lambda: len(seen_by_bob) == 1)
    await ann.arrived()
    assert heard == [[], [], [], []]


async def test_a_forged_reply_subject_lands_nowhere_but_in_ones_own_project(hub: Hub) -> None:
    """The server sends the acknowledgement with its own rights: into the log, to a machine, to another project."""
    ann, _ = await hub.client("webshop")
    bob, _ = await hub.client("other")
    heard = await bob.overhears("av.other.>")
    in_hub: list[str] = []
    for subject in ("av.>", "from.>", "cmd.>", "issuer.>", "_INBOX_hub.forged.*"):
        await hub.bus.nc.subscribe(subject, cb=_note(in_hub))
    before = (await hub.bus.log.extent()).last_seq
    for reply in (
        "av.other.machine.x.MachineEnded", "av.webshop.machine.x.MachineEnded", "log.other.machine.x.MachineEnded",
        "cmd.other.m.1.Stop", "from.webshop.m.1.spawner.AgentFinished", "_INBOX_hub.forged.1", "issuer.revoke",
        "$JS.API.STREAM.DELETE.LOG", "$SYS.REQ.CLAIMS.UPDATE", "in.other.machine.x.MachineRequested",
        "ask.other.machine.x.MachineRequested",
    ):  # fmt: skip
        await ann.may_say("in.webshop.machine.x.Unknown", reply=reply)
        await ann.may_say("ask.webshop.machine.x.Unknown", reply=reply)
    await eventually(lambda: _in_is_empty(hub))
    assert heard == []
    assert in_hub == []
    assert (await hub.bus.log.extent()).last_seq == before


async def test_guessing_another_projects_id_suppresses_nothing(hub: Hub) -> None:
    ann, _ = await hub.client("webshop")
    bob, _ = await hub.client("other")
    heard = await bob.overhears("av.other.>")
    await ann.nc.jetstream().publish(f"in.webshop.machine.{uuid4()}.MachineRequested", GOAL, headers={"ce-id": "guess"})
    await asyncio.gather(
        *(
            bob.nc.jetstream().publish(f"in.other.machine.{uuid4()}.MachineRequested", GOAL, headers={"ce-id": "guess"})
            for _ in range(3)
        )
    )
    await eventually(lambda: len(heard) == 3)


async def test_a_refusal_does_not_tell_whether_another_projects_thing_exists(hub: Hub) -> None:
    ann, _ = await hub.client("webshop")
    bob, _ = await hub.client("other")
    theirs, nobody = uuid4(), uuid4()
    await bob.nc.request(f"ask.other.machine.{theirs}.MachineRequested", GOAL, timeout=5)
    answers = [
        await ann.nc.request(f"ask.webshop.machine.{machine_id}.MachineStopRequested", b"{}", timeout=5)
        for machine_id in (theirs, nobody)
    ]
    said = [json.loads(answer.data)["message"] for answer in answers]
    assert said[0].replace(str(theirs), "") == said[1].replace(str(nobody), "")


async def test_discovery_finds_every_service_from_inside_a_project(hub: Hub) -> None:
    ann, _ = await hub.client("webshop", Role.VIEWER)
    found = await ann.overhears("_INBOX.ping")
    assert await ann.may_say("$SRV.PING", b"", reply="_INBOX.ping")
    await eventually(
        lambda: {json.loads(message.data)["name"] for message in found} == {"autovibe-intake", "autovibe-issuer"}
    )


async def test_a_machine_says_and_hears_what_is_its_own_and_nothing_else(hub: Hub) -> None:
    machine_id, sibling = uuid4(), uuid4()
    agent = await hub.machine("webshop", machine_id)
    own = f"webshop.{machine_id}.1"
    await agent.nc.jetstream().publish(f"from.{own}.spawner.AgentRegistered", b'{"agent_version": "1"}')
    assert await agent.may_say(f"out.{own}")
    assert await agent.may_say(f"beat.{own}")
    assert await agent.may_hear(f"cmd.{own}.>")
    for subject in (
        f"from.webshop.{machine_id}.2.spawner.AgentFinished", f"from.webshop.{sibling}.1.spawner.AgentFinished",
        f"from.other.{machine_id}.1.spawner.AgentFinished", f"out.webshop.{sibling}.1", f"out.webshop.{machine_id}.2",
        f"out.{own}.x", f"beat.webshop.{sibling}.1", f"in.webshop.machine.{machine_id}.MachineStopRequested",
        f"ask.webshop.machine.{machine_id}.MachineStopRequested", f"av.webshop.machine.{machine_id}.MachineEnded",
        f"cmd.{own}.Stop", f"cmd.webshop.{sibling}.1.Stop", "issuer.machine", "$JS.API.INFO", "$SYS.REQ.CLAIMS.UPDATE",
        "$SRV.PING", "_INBOX_hub.x.y", f"_INBOX_{sibling}.x", "_INBOX.x", f"live.{own}", "rejected.webshop.a.b.c",
    ):  # fmt: skip
        assert not await agent.may_say(subject), subject
    for subject in (
        f"cmd.webshop.{sibling}.1.>", f"cmd.webshop.{machine_id}.2.>", "cmd.webshop.>", "av.webshop.>", "live.webshop.>",
        f"_INBOX_{sibling}.>", "_INBOX.>", "_INBOX_hub.>", "from.webshop.>", ">", "$SYS.>", "rejected.webshop.>",
    ):  # fmt: skip
        assert not await agent.may_hear(subject), subject


async def test_a_command_reaches_its_machine_and_the_answer_its_asker(hub: Hub) -> None:
    machine_id, sibling = uuid4(), uuid4()
    agent, other = await hub.machine("webshop", machine_id), await hub.machine("webshop", sibling)
    eavesdropped = await other.overhears(f"cmd.webshop.{sibling}.1.>")

    async def obey(message: Msg) -> None:
        await message.respond(b'{"done": true}')

    await agent.nc.subscribe(f"cmd.webshop.{machine_id}.1.>", cb=obey)
    await agent.arrived()
    for _ in range(3):
        answer = await hub.bus.nc.request(f"cmd.webshop.{machine_id}.1.Capture", b"{}", timeout=5)
        assert answer.data == b'{"done": true}'
    assert eavesdropped == []
    with pytest.raises((NoRespondersError, NatsTimeout)):
        await hub.bus.nc.request(f"cmd.webshop.{machine_id}.2.Stop", b"{}", timeout=0.5)


async def test_a_machine_can_forge_only_commands_that_ask_for_no_answer(hub: Hub) -> None:
    """Its acknowledgement can be made to arrive on a sibling's command subject, but never with a reply subject.

    That is why an agent takes no command that does not ask for an answer.
    """
    machine_id, victim = uuid4(), uuid4()
    agent, sibling = await hub.machine("webshop", machine_id), await hub.machine("webshop", victim)
    commands = await sibling.overhears(f"cmd.webshop.{victim}.1.>")
    subject = f"from.webshop.{machine_id}.1.spawner.AgentRegistered"
    await agent.may_say(subject, reply=f"cmd.webshop.{victim}.1.Stop")
    await eventually(lambda: len(commands) == 1)
    assert commands[0].reply == ""


async def test_a_watcher_can_tell_a_forged_event_by_its_missing_sequence(hub: Hub) -> None:
    ann, _ = await hub.client("webshop")
    heard = await ann.overhears("av.webshop.>")
    await ann.may_say("in.webshop.machine.x.Unknown", reply="av.webshop.machine.x.MachineEnded")
    await eventually(lambda: len(heard) == 1)
    assert "Nats-Sequence" not in (heard[0].headers or {})
    of = machine("webshop", uuid4())
    await hub.bus.log.append(Write(of, 0, (MachineProgressed(epoch=1, message="hi"),)), cause=Cause("test"))
    await eventually(lambda: len(heard) == 2)
    assert "Nats-Sequence" in (heard[1].headers or {})


async def test_an_operator_reaches_every_project_but_speaks_for_no_machine(hub: Hub) -> None:
    root = await hub.operator()
    heard = await root.overhears("av.*.project.>")
    for slug in ("shop-a", "shop-b"):
        answer = await root.nc.request(f"ask.{slug}.project.{slug}.ProjectCreated", b"{}", timeout=5)
        assert json.loads(answer.data)["seq"] > 0
    await eventually(lambda: len(heard) == 2)
    for subject in (
        "from.webshop.m.1.spawner.AgentFinished",
        "cmd.webshop.m.1.Stop",
        "av.webshop.machine.x.MachineEnded",
    ):
        assert not await root.may_say(subject)
    ann, _ = await hub.client("shop-a")
    assert await ann.may_hear("av.shop-a.>")


async def test_our_own_services_cannot_erase_history(hub: Hub) -> None:
    for verb in ("DELETE", "PURGE", "MSG.DELETE", "RESTORE"):
        with pytest.raises((NatsTimeout, NoRespondersError)):
            await hub.bus.nc.request(f"$JS.API.STREAM.{verb}.LOG", b"{}", timeout=0.3)
    assert (await hub.bus.log.extent()).messages >= 2


def _note(subjects: list[str]) -> Callable[[Msg], Awaitable[None]]:
    async def note(message: Msg) -> None:
        subjects.append(message.subject)

    return note


async def _in_is_empty(hub: Hub) -> bool:
    return (await hub.bus.js.stream_info("IN")).state.messages == 0
