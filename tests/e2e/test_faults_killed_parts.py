"""One part of a running hub dies under load, or sleeps: the others go on, and it comes back by itself."""

import asyncio
import os
import signal
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import psycopg
import pytest

from events.words import Outcome
from tests.harness import eventually, processes
from tests.harness.hub import RunningHub, running_hub
from tests.harness.invariants import at_work, checkpointed, proved, told
from tests.harness.knocking import COUNTS, Knocks, beside, knocking
from tests.harness.processes import Process

pytestmark = pytest.mark.timeout(240)

MACHINES = 4
AWAY_S = 10.0
"""How long PostgreSQL is away; nothing in the code knows this number."""


@dataclass(frozen=True, slots=True)
class Busy:
    """A hub with machines at work and events on their way."""

    hub: RunningHub
    knocks: Knocks
    machines: list[str]
    epochs: dict[str, int] = field(default_factory=dict[str, int])
    """At the end: how many incarnations each machine had."""

    def part(self, of_it: Callable[[Process], bool]) -> Process:
        return next(process for process in processes.tree(self.hub.process.pid) if of_it(process))

    @property
    def zygote(self) -> Process:
        return self.part(lambda each: "agent.zygote" in each.command and each.parent == self.hub.process.pid)


@asynccontextmanager
async def busy() -> AsyncGenerator[Busy]:
    """Give a hub under load; when the body is done all must come to an end and everything be true."""
    async with running_hub() as hub, knocking(hub) as knocks:
        await knocks.project("shop")
        machines = [await knocks.machine("shop", COUNTS) for _ in range(MACHINES)]
        await at_work(hub, machines[:2])
        load = Busy(hub, knocks, machines)
        async with beside(knocks, ["shop"]):
            yield load
        story = await proved(hub, knocks, machines)
        load.epochs.update({machine: len(story.provisioned(machine)) for machine in machines})
        outcomes = {machine: story.ended(machine) for machine in machines}
        assert all(ended and ended.outcome is Outcome.SUCCEEDED for ended in outcomes.values()), outcomes
        assert await hub.stop() == 0


async def replaced(load: Busy, of_it: Callable[[Process], bool]) -> None:
    """Kill a part and wait until another one stands in its place."""
    killed = load.part(of_it)
    os.kill(killed.pid, signal.SIGKILL)
    await eventually(lambda: not killed.is_alive)
    await eventually(lambda: any(of_it(each) for each in processes.tree(load.hub.process.pid)), timeout_s=30)


async def answered_anew(load: Busy) -> None:
    """Wait until the door acknowledges what was asked after now."""
    before = len(load.knocks.answers)
    await eventually(lambda: len(load.knocks.answers) > before + 2, timeout_s=30)


def is_nats_server(process: Process) -> bool:
    return process.command.split(" ")[0].endswith("/nats-server")


def is_postmaster(process: Process) -> bool:
    return process.command.split(" ")[0].endswith("/postgres") and " -D " in process.command


async def test_nats_killed_under_load_is_started_again_and_machines_work_on() -> None:
    async with busy() as load:
        await replaced(load, is_nats_server)
        await answered_anew(load)
    assert load.epochs == dict.fromkeys(load.machines, 1), "an agent outlives the server's absence"


async def test_the_postmaster_killed_under_load_is_started_again_and_nothing_is_missing_in_the_tables() -> None:
    async with busy() as load:
        await replaced(load, is_postmaster)
        await answered_anew(load)
        await eventually(lambda: read_model_has(load.hub, load.machines[0]), timeout_s=40, poll_s=0.2)


async def test_machines_whose_zygote_was_killed_recover() -> None:
    async with busy() as load:
        checkpoint = await checkpointed(load.knocks, "shop", load.machines[0])
        killed = load.zygote
        agents = [process for process in processes.tree(killed.pid) if process.pid != killed.pid]
        os.kill(killed.pid, signal.SIGKILL)
        await eventually(lambda: not any(process.is_alive for process in agents), timeout_s=2)
        started = await eventually(lambda: _starts(load, load.machines[0], 2), timeout_s=40, poll_s=0.2)
        assert started[1] == checkpoint


async def test_a_machine_whose_agent_was_killed_recovers_and_the_others_do_not_notice() -> None:
    async with busy() as load:
        checkpoint = await checkpointed(load.knocks, "shop", load.machines[0])
        (group, *_) = [group for group in processes.groups(load.hub.data) if group.name.startswith(load.machines[0])]
        inside = processes.in_group(group)
        agent = _agent_of(load.zygote, inside)
        os.kill(agent.pid, signal.SIGKILL)
        await eventually(lambda: not any(process.is_alive for process in inside), timeout_s=2)
        started = await eventually(lambda: _starts(load, load.machines[0], 2), timeout_s=40, poll_s=0.2)
        assert started[1] == checkpoint
    assert [load.epochs[machine] for machine in load.machines] == [2, 1, 1, 1]


async def test_while_postgresql_is_away_the_door_stays_open_and_the_tables_catch_up() -> None:
    async with busy() as load:
        postmaster = load.part(is_postmaster)
        sleeping = [process.pid for process in processes.tree(postmaster.pid)]
        for pid in sleeping:
            os.kill(pid, signal.SIGSTOP)
        try:
            before = len(load.knocks.answers)
            late = await load.knocks.machine("shop", "echo while it was away")
            await asyncio.sleep(AWAY_S)
            assert len(load.knocks.answers) > before + 10
            assert (await told(load.hub)).ended(late), "machines need no PostgreSQL"
        finally:
            for pid in sleeping:
                os.kill(pid, signal.SIGCONT)
        await eventually(lambda: read_model_has(load.hub, late), timeout_s=30, poll_s=0.2)


async def read_model_has(hub: RunningHub, machine: str) -> bool:
    """Whether the tables know that a machine is at its end."""
    try:
        async with await psycopg.AsyncConnection.connect(hub.context.database_url, connect_timeout=2) as connection:
            found = await connection.execute(
                "SELECT true FROM intelligent_machines WHERE uuid = %s AND status = 'terminated'", (machine,)
            )
            return await found.fetchone() is not None
    except psycopg.OperationalError:
        return False


async def _starts(load: Busy, machine: str, epochs: int) -> list[str]:
    """Return the checkpoints that a machine's incarnations started from, once there are so many."""
    story = await told(load.hub)
    found = [str(event.from_checkpoint_id) for event in story.provisioned(machine)]
    return found if len(found) >= epochs else []


def _agent_of(zygote: Process, inside: list[Process]) -> Process:
    """Return the agent, among the zygote's children, that these processes descend from."""
    agents = [process for process in processes.tree(zygote.pid) if process.parent == zygote.pid]
    return next(agent for agent in agents if inside[0] in processes.tree(agent.pid))
