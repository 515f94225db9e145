"""The real agents on a whole hub: metered to the last place, captured between calls, parked, topped up, killed, and done.

Everything is real but the model: the rehearsal model stands in for the provider, and keeps a bill of its own.
"""

import asyncio
import os
import signal
import subprocess
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from uuid import UUID

import pytest
import pytest_asyncio

from events.call import CallRefused, CallReserved, CallSettled
from events.checkpoint import CheckpointTaken
from events.machine import MachineHeld, MachineParked, MachineRequested
from events.words import Hold, Outcome
from tests.harness import eventually, processes
from tests.harness.hub import Done, RunningHub
from tests.harness.invariants import Story, told
from tests_clis.conftest import Installed
from tests_clis.rehearsed import AFTER, BEFORE, GOAL, LOOKS, Provider, rehearsed_hub

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(400)]
RUN_S = 150.0
NANO = Decimal(10) ** -9


@dataclass(frozen=True, slots=True)
class Agent:
    """An agent, and a model whose name makes it speak the protocol that it is to speak."""

    machine_type: str
    model: str

    def __str__(self) -> str:
        return f"{self.machine_type}-{self.model}"


AGENTS = [
    Agent("claude_code", "claude-sonnet-4-5"),
    Agent("qwen_coder", "qwen3-coder"),
    Agent("aider", "rehearsal-sonnet"),
]
each_agent = pytest.mark.parametrize("agent", AGENTS, ids=str)


@dataclass(frozen=True, slots=True)
class Stage:
    """A hub, its provider, and a repository to make projects from."""

    hub: RunningHub
    provider: Provider
    source: Path

    async def project(self, slug: str) -> str:
        await self.hub.ok("project", "create", slug, "--from", str(self.source), "--budget", "50CAD")
        return slug

    async def run(self, project: str, agent: Agent, budget: str) -> Done:
        """Have the agent pursue the goal, as a user does who waits for its end."""
        asked = ("run", project, GOAL, "--type", agent.machine_type, "--model", agent.model, "--budget", budget)
        return await self.hub.run(*asked, timeout_s=RUN_S)

    async def machine(self, project: str) -> str:
        """Return the only machine of a project, once it was requested."""

        async def level() -> str:
            found = [
                each.envelope.address.id
                for each in (await told(self.hub)).events
                if isinstance(each.event, MachineRequested) and each.envelope.address.project == project
            ]
            return found[0] if found else ""

        return await eventually(level, timeout_s=30)

    async def file(self, story: Story, machine: str, directory: Path) -> str:
        """Return what greeting.py is in the machine's last checkpoint."""
        last = list(checkpoints(story, machine))[-1]
        await self.hub.ok("checkpoint", "export", last, "--to", str(directory))
        return (directory / "greeting.py").read_text()


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def stage(installed: Installed, tmp_path_factory: pytest.TempPathFactory) -> AsyncGenerator[Stage]:
    directory = tmp_path_factory.mktemp("stage")
    source = directory / "source"
    source.mkdir()
    (source / "greeting.py").write_text(BEFORE)
    named = ("-c", "user.name=test", "-c", "user.email=test@localhost")
    for command in (("init", "-q"), ("add", "."), (*named, "commit", "-q", "-m", "A greeting")):
        subprocess.run(["git", *command], cwd=source, check=True)
    async with rehearsed_hub(installed, directory) as (hub, provider):
        yield Stage(hub, provider, source)


@each_agent
async def test_it_edits_a_file_and_every_call_is_metered_as_the_provider_bills_it(
    stage: Stage, agent: Agent, tmp_path: Path
) -> None:
    project = await stage.project(f"edit-{agent.machine_type.replace('_', '-')}")
    first = len(stage.provider.heard)
    done = await stage.run(project, agent, "5CAD")
    machine = await stage.machine(project)
    story = await told(stage.hub)
    assert done.exit_code == 0, (done.out, done.err)
    assert await stage.file(story, machine, tmp_path / "out") == AFTER, (done.out, done.err)
    assert list(checkpoints(story, machine).values()).count("between_calls") >= 1
    settled = await eventually(lambda: _all_settled(stage, machine))
    billed = stage.provider.model.bill.charges
    assert len(settled) == len(stage.provider.heard) - first >= 3
    for call in settled:
        charge = billed[call.request_id or ""]
        assert not call.estimated, call
        assert call.cost == charge.usage.nano_usd * NANO
        assert {name: getattr(call.tokens, name) for name in charge.usage.__slots__} == {
            name: getattr(charge.usage, name) for name in charge.usage.__slots__
        }


@each_agent
async def test_refused_by_its_budget_with_one_request_it_is_topped_up_goes_on_and_finishes(
    stage: Stage, agent: Agent, tmp_path: Path
) -> None:
    project = await stage.project(f"short-{agent.machine_type.replace('_', '-')}")
    calls = _calls(await told(stage.hub), _machine_of(await told(stage.hub), agent))
    budget = _enough_for(calls, 2)
    first = len(stage.provider.heard)
    running = asyncio.create_task(stage.run(project, agent, f"{budget:.6f}CAD"))
    machine = await stage.machine(project)
    parked = await eventually(lambda: _parked(stage, machine), timeout_s=RUN_S)
    story = await told(stage.hub)
    assert parked is not None
    refused = [event for event in story.machine(machine) if isinstance(event, CallRefused)]
    holds = [event for event in story.machine(machine) if isinstance(event, MachineHeld)]
    assert (len(refused), len(holds), parked.hold) == (1, 1, Hold.BUDGET)
    assert machine in holds[0].reason or "CAD" in holds[0].reason
    assert list(checkpoints(story, machine).values())[-1] == "mid_execution"
    assert _refusals(stage, machine) == 1, "the agent sent one request that was refused, and no more"
    before = len(stage.provider.heard)
    assert before - first == 2, "and the provider saw nothing of it"
    await stage.hub.ok("budget", "top-up", project, "2CAD", "--machine", machine)
    done = await running
    assert done.exit_code == 0, (done.out, done.err)
    assert LOOKS in stage.provider.heard[before], "the conversation is the same"
    story = await told(stage.hub)
    assert len(story.provisioned(machine)) == 2
    assert _refusals(stage, machine) == 1
    assert await stage.file(story, machine, tmp_path / "out") == AFTER, (done.out, done.err)


@each_agent
async def test_killed_between_two_calls_it_goes_on_from_the_checkpoint_before_them(
    stage: Stage, agent: Agent, tmp_path: Path
) -> None:
    project = await stage.project(f"killed-{agent.machine_type.replace('_', '-')}")
    stage.provider.keep_waiting(2)
    running = asyncio.create_task(stage.run(project, agent, "5CAD"))
    machine = await stage.machine(project)
    await asyncio.wait_for(stage.provider.waiting.wait(), RUN_S)
    before = len(stage.provider.heard)
    await _kill(stage.hub, machine)
    done = await running
    assert done.exit_code == 0, (done.out, done.err)
    story = await told(stage.hub)
    taken = checkpoints(story, machine)
    starts = [str(start.from_checkpoint_id) for start in story.provisioned(machine)]
    assert len(starts) == 2
    assert taken[starts[1]] == "between_calls"
    assert LOOKS in stage.provider.heard[before], "the conversation is the same"
    assert await stage.file(story, machine, tmp_path / "out") == AFTER, (done.out, done.err)
    ended = story.ended(machine)
    assert ended is not None
    assert ended.outcome is Outcome.SUCCEEDED


def checkpoints(story: Story, machine: str) -> dict[str, str]:
    """Return why each checkpoint of a machine was taken, by its id, oldest first."""
    return {
        each.envelope.address.id: str(each.event.creation_context)
        for each in story.events
        if isinstance(each.event, CheckpointTaken) and each.event.machine_id == UUID(machine)
    }


async def _parked(stage: Stage, machine: str) -> MachineParked | None:
    events = (await told(stage.hub)).machine(machine)
    return next((event for event in events if isinstance(event, MachineParked)), None)


async def _all_settled(stage: Stage, machine: str) -> list[CallSettled]:
    """Return how a machine's calls were settled, once all are."""
    events = (await told(stage.hub)).machine(machine)
    settled = [event for event in events if isinstance(event, CallSettled)]
    return settled if len(settled) == sum(isinstance(event, CallReserved) for event in events) else []


def _machine_of(story: Story, agent: Agent) -> str:
    """Return the first machine that was this agent."""
    return next(
        each.envelope.address.id
        for each in story.events
        if isinstance(each.event, MachineRequested) and each.event.machine_type == agent.machine_type
    )


def _calls(story: Story, machine: str) -> list[tuple[CallReserved, CallSettled]]:
    events = story.machine(machine)
    settled = {event.call_id: event for event in events if isinstance(event, CallSettled)}
    return [(event, settled[event.call_id]) for event in events if isinstance(event, CallReserved)]


def _enough_for(calls: list[tuple[CallReserved, CallSettled]], number: int) -> Decimal:
    """Return a budget, CAD, that lets the first calls pass and none after: the input of the next cannot be held."""
    *past, (reserved, settled) = calls[:number]
    rates = reserved.rates
    output = reserved.bound.output * rates.price.output * rates.multiplier_max * rates.cad / 1_000_000
    held = next(amount for resource, amount in reserved.held.items() if resource == "money")
    return sum((each.cost_cad for _, each in past), Decimal(0)) + held - output + settled.cost_cad / 2


def _refusals(stage: Stage, machine: str) -> int:
    """How many requests of a machine the gateway has refused, by its log."""
    return sum("call.refused" in line and machine in line for line in stage.hub.said.splitlines())


async def _kill(hub: RunningHub, machine: str) -> None:
    """Kill a machine's agent and all that runs in its sandbox, at once."""
    (group,) = [group for group in processes.groups(hub.data) if group.name.startswith(machine)]
    inside = processes.in_group(group)
    everything = processes.tree(hub.process.pid)
    zygote = next(each for each in everything if "agent.zygote" in each.command and each.parent == hub.process.pid)
    agents = [each for each in everything if each.parent == zygote.pid]
    agent = next(each for each in agents if inside[0] in processes.tree(each.pid))
    for process in (agent, *inside):
        os.kill(process.pid, signal.SIGKILL)
    await eventually(lambda: not any(process.is_alive for process in (agent, *inside)), timeout_s=5)
