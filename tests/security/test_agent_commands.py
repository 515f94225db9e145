"""What reaches an agent's command subject without asking for an answer is not from the hub."""

from typing import cast
from uuid import uuid4

from nats.aio.msg import Msg

from agent.captures import Captures
from agent.commands import Commands
from agent.verdict import Verdict
from tests.harness import eventually
from tests.security.conftest import Hub


async def test_a_sibling_cannot_stop_a_machine_by_a_forged_acknowledgement(hub: Hub) -> None:
    machine_id, victim = uuid4(), uuid4()
    agent, sibling = await hub.machine("webshop", machine_id), await hub.machine("webshop", victim)
    verdict = Verdict()
    commands = Commands(cast("Captures", None), verdict)
    heard: list[Msg] = []

    async def hear(message: Msg) -> None:
        heard.append(message)
        await commands.hear(message)

    await sibling.nc.subscribe(f"cmd.webshop.{victim}.1.>", cb=hear)
    await sibling.arrived()
    subject = f"from.webshop.{machine_id}.1.spawner.AgentRegistered"
    await agent.nc.publish(subject, b"{}", reply=f"cmd.webshop.{victim}.1.Stop")
    await hub.bus.nc.request(f"cmd.webshop.{victim}.1.Nonsense", b"{}", timeout=5)
    await eventually(lambda: len(heard) == 2)
    assert {message.reply != "" for message in heard} == {True, False}
    assert verdict.reason is None
    await hub.bus.nc.request(f"cmd.webshop.{victim}.1.Stop", b"{}", timeout=5)
    await eventually(lambda: verdict.reason)
