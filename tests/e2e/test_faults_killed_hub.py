"""`kill -9` of the whole hub under load, and started again: it goes on as if nothing had been."""

import asyncio
import signal
from uuid import UUID, uuid4

import pytest

from events.checkpoint import CheckpointTaken
from events.machine import MachineProvisioningStarted, MachineRecoveryStarted
from events.words import Outcome
from tests.harness import eventually, processes
from tests.harness.hub import RunningHub, running_hub
from tests.harness.invariants import Story, at_work, checkpointed, nothing_left, proved, told
from tests.harness.knocking import COUNTS, beside, knocking

pytestmark = pytest.mark.timeout(300)

GONE_S = 2.0
"""How long anything may outlive the hub that was killed."""


async def killed(hub: RunningHub) -> None:
    """Kill the hub as the kernel would, and see that nothing of it goes on."""
    known = processes.tree(hub.process.pid)
    assert {"nats-server", "postgres", "agent.zygote"} <= {
        name for name in ("nats-server", "postgres", "agent.zygote") if any(name in each.command for each in known)
    }
    hub.process.kill()
    await hub.process.wait()
    await nothing_left(hub, known, GONE_S)
    await hub.stop()


def recovered_from(story: Story, machine: str) -> list[UUID | None]:
    """Return what each further incarnation of a machine started from, having seen that it was said before."""
    events = story.machine(machine)
    said = [event.from_checkpoint_id for event in events if isinstance(event, MachineRecoveryStarted)]
    starts = [event.from_checkpoint_id for event in events if isinstance(event, MachineProvisioningStarted)]
    assert len(starts) == len(said) + 1, [event.type() for event in events]
    return list(starts[1:])


def last_checkpoint_before(story: Story, machine: str, epoch: int) -> UUID | None:
    """Return the newest checkpoint of a machine when its incarnation `epoch` was prepared."""
    newest: UUID | None = None
    for recorded in story.events:
        event = recorded.event
        if isinstance(event, MachineProvisioningStarted) and recorded.envelope.address.id == machine:
            if event.epoch == epoch:
                return newest
            newest = newest or event.from_checkpoint_id
        elif isinstance(event, CheckpointTaken) and str(event.machine_id) == machine:
            newest = UUID(recorded.envelope.address.id)
    return newest


async def test_a_hub_killed_twice_under_load_loses_nothing_and_does_nothing_twice() -> None:
    async with running_hub() as hub, knocking(hub) as knocks:
        await knocks.project("shop", checkpoint_policy={"interval_s": 5})
        await knocks.project("news")
        async with beside(knocks, ["shop", "news"]):
            asked = [knocks.machine(project, COUNTS) for project in ("shop", "news") for _ in range(3)]
            machines = list(await asyncio.gather(*asked))
            published = [str(uuid4()) for _ in range(6)]
            body = {"goal": "echo published", "machine_type": "shell"}
            async with asyncio.TaskGroup() as group:
                for machine in published:
                    group.create_task(knocks.publish("news", machine, body))
                await at_work(hub, machines[:1])
                checkpoint = await checkpointed(knocks, "shop", machines[0])
                await killed(hub)
                await hub.start()
            await eventually(lambda: _recovered(hub, machines[0]), timeout_s=60, poll_s=0.3)
            running = (await told(hub)).unfinished()
            await killed(hub)
            await hub.start()
        story = await proved(hub, knocks, machines)
        assert recovered_from(story, machines[0])[0] == UUID(checkpoint)
        assert running
        for machine in machines:
            for epoch, start in enumerate(recovered_from(story, machine), start=2):
                assert start == last_checkpoint_before(story, machine, epoch)
            ended = story.ended(machine)
            assert ended is not None
            assert ended.outcome is Outcome.SUCCEEDED, ended
        known = processes.tree(hub.process.pid)
        assert await hub.stop() == 0
        await nothing_left(hub, known, GONE_S)


async def _recovered(hub: RunningHub, machine: str) -> bool:
    return any(event.type() == "MachineRecoveryStarted" for event in (await told(hub)).machine(machine))


async def test_a_hub_killed_while_it_starts_starts_again() -> None:
    async with running_hub() as hub, knocking(hub) as knocks:
        await knocks.project("shop")
        machine = await knocks.machine("shop", COUNTS)
        await at_work(hub, [machine])
        await killed(hub)
        for after_s in (0.3, 0.8, 1.5):
            starting = asyncio.ensure_future(hub.start())
            await asyncio.wait({starting}, timeout=after_s)
            if not starting.done():
                hub.process.send_signal(signal.SIGKILL)
                with pytest.raises(AssertionError, match="did not start"):
                    await starting
            else:
                await starting
                await killed(hub)
        await hub.start()
        story = await proved(hub, knocks, [machine])
        ended = story.ended(machine)
        assert ended is not None
        assert ended.outcome is Outcome.SUCCEEDED
