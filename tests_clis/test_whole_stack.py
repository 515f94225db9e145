"""The real agents on a whole hub: metered to the last place, captured between calls, parked, topped up, killed, and done.

Everything is real but the model: the rehearsal model stands in for the provider, and keeps a bill of its own.
"""

import asyncio
import json
import os
import signal
import subprocess
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from dataclasses import asdict, dataclass, field
from decimal import Decimal
from pathlib import Path
from uuid import UUID

import pytest
import pytest_asyncio

from events.call import CallRefused, CallReserved, CallSettled, Tokens
from events.checkpoint import CheckpointTaken
from events.machine import MachineParked, MachineRequested
from events.words import Hold, Outcome, Resource
from tests.harness import eventually, processes
from tests.harness.hub import Done, RunningHub
from tests.harness.invariants import Story, told
from tests_clis.conftest import Installed
from tests_clis.rehearsed import AFTER, BEFORE, GOAL, LOOKS, Provider, rehearsed_hub

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(400)]
RUN_S = 150.0
URL, KEY = "http://127.0.0.1:9", "sk-of-the-project"
NAMES = ("ANTHROPIC_BASE_URL", "ANTHROPIC_API_BASE", "OPENAI_BASE_URL", "OPENAI_API_BASE")
DOTENV = "".join(f"{name}={URL}\n" for name in NAMES) + f"OPENAI_API_KEY={KEY}\nANTHROPIC_API_KEY={KEY}\n"
ELSEWHERE = (
    (".env", DOTENV),
    (".qwen/.env", DOTENV),
    (".qwen/settings.json", json.dumps({"env": {"OPENAI_BASE_URL": URL, "OPENAI_API_KEY": KEY}})),
    (".claude/settings.json", json.dumps({"env": {"ANTHROPIC_BASE_URL": URL, "ANTHROPIC_AUTH_TOKEN": KEY}})),
    (".aider.conf.yml", f"openai-api-base: {URL}\nopenai-api-key: {KEY}\nset-env:\n  - OPENAI_API_BASE={URL}\n"),
)
"""Files of a workspace, each of which an agent reads for itself, that name another provider and other keys."""
NANO = Decimal(10) ** -9


@dataclass(frozen=True, slots=True)
class Agent:
    """An agent, and a model whose name makes it speak the protocol that it is to speak."""

    machine_type: str
    model: str
    paid_calls: int = 2
    """So many it may make before its budget is short; what is short is then still to do."""

    def __str__(self) -> str:
        return f"{self.machine_type}-{self.model}"

    def project(self, what: str) -> str:
        return f"{what}-{self.machine_type.replace('_', '-')}"


AGENTS = [
    Agent("claude_code", "claude-sonnet-4-5"),
    Agent("qwen_coder", "qwen3-coder"),
    Agent("aider", "rehearsal-sonnet", paid_calls=1),
]
each_agent = pytest.mark.parametrize("agent", AGENTS, ids=str)


@dataclass(frozen=True, slots=True)
class Worked:
    """A machine that has reached the goal undisturbed."""

    project: str
    machine: str
    requests: int
    """That the provider saw of it."""


@dataclass(frozen=True, slots=True)
class Stage:
    """A hub, its provider, and a repository to make projects from."""

    hub: RunningHub
    provider: Provider
    source: Path
    _worked: dict[Agent, Worked] = field(default_factory=dict[Agent, Worked])

    async def worked(self, agent: Agent) -> Worked:
        """Return the machine that was this agent first; what the tests know of its calls they know from it."""
        if agent not in self._worked:
            project = await self.project(agent.project("edit"))
            before = len(self.provider.heard)
            async with self.running(project, agent, "5CAD") as running:
                done = await running
            assert done.exit_code == 0, (done.out, done.err)
            requests = len(self.provider.heard) - before
            self._worked[agent] = Worked(project, await self.machine(project), requests)
        return self._worked[agent]

    async def project(self, slug: str) -> str:
        await self.hub.ok("project", "create", slug, "--from", str(self.source), "--budget", "50CAD")
        return slug

    @asynccontextmanager
    async def running(self, project: str, agent: Agent, budget: str, *more: str) -> AsyncGenerator[asyncio.Task[Done]]:
        """Have the agent pursue the goal, as a user does who waits for its end."""
        asked = ("run", project, GOAL, "--type", agent.machine_type, "--model", agent.model, "--budget", budget)
        task = asyncio.create_task(self.hub.run(*asked, *more, timeout_s=RUN_S))
        try:
            yield task
        finally:
            task.cancel()
            await asyncio.wait({task})

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
    worked = await stage.worked(agent)
    machine, story = worked.machine, await told(stage.hub)
    assert await stage.file(story, machine, tmp_path / "out") == AFTER
    assert list(checkpoints(story, machine).values()).count("between_calls") >= 1
    settled = await eventually(lambda: _all_settled(stage, machine))
    billed = stage.provider.model.bill.charges
    assert len(settled) == worked.requests >= 3
    for call in settled:
        charge = billed[call.request_id or ""]
        assert not call.estimated, call
        assert call.cost == charge.usage.nano_usd * NANO
        assert call.tokens == Tokens(**asdict(charge.usage))


@each_agent
async def test_refused_by_its_budget_with_one_request_it_is_topped_up_goes_on_and_finishes(
    stage: Stage, agent: Agent, tmp_path: Path
) -> None:
    worked = await stage.worked(agent)
    budget = _enough_for(_calls(await told(stage.hub), worked.machine), agent.paid_calls)
    project = await stage.project(agent.project("short"))
    first = len(stage.provider.heard)
    async with stage.running(project, agent, f"{budget:.6f}CAD") as running:
        machine = await stage.machine(project)
        parked = await eventually(lambda: _parked(stage, machine), timeout_s=RUN_S)
        assert parked is not None
        story = await told(stage.hub)
        refused = [event for event in story.machine(machine) if isinstance(event, CallRefused)]
        assert (len(refused), parked.hold) == (1, Hold.BUDGET)
        assert "CAD" in parked.reason
        assert list(checkpoints(story, machine).values())[-1] == "mid_execution"
        before = len(stage.provider.heard)
        assert before - first == agent.paid_calls, "the provider saw nothing of the refused one"
        assert _refusals(stage, machine) == 1, "the agent sent one request that was refused, and no more"
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
    project = await stage.project(agent.project("killed"))
    stage.provider.keep_waiting(2)
    async with stage.running(project, agent, "5CAD") as running:
        machine = await stage.machine(project)
        await asyncio.wait_for(stage.provider.waiting.wait(), RUN_S)
        before = len(stage.provider.heard)
        await _kill(stage.hub, machine)
        done = await running
    assert done.exit_code == 0, (done.out, done.err)
    story = await told(stage.hub)
    starts = [str(start.from_checkpoint_id) for start in story.provisioned(machine)]
    assert len(starts) == 2
    assert checkpoints(story, machine)[starts[1]] == "between_calls"
    assert LOOKS in stage.provider.heard[before], "the conversation is the same"
    assert await stage.file(story, machine, tmp_path / "out") == AFTER, (done.out, done.err)
    ended = story.ended(machine)
    assert ended is not None
    assert ended.outcome is Outcome.SUCCEEDED


@each_agent
async def test_a_branch_from_between_two_calls_goes_on_with_a_copy_of_the_conversation(
    stage: Stage, agent: Agent, tmp_path: Path
) -> None:
    worked = await stage.worked(agent)
    await stage.hub.ok("project", "set", worked.project, "--conversation", "fork")
    taken = checkpoints(await told(stage.hub), worked.machine)
    *_, between = (checkpoint for checkpoint, context in taken.items() if context == "between_calls")
    before = len(stage.provider.heard)
    async with stage.running(worked.project, agent, "5CAD", "--from", between) as running:
        done = await running
    assert done.exit_code == 0, (done.out, done.err)
    assert LOOKS in stage.provider.heard[before]
    story = await told(stage.hub)
    (machine,) = (each for each in story.machines() if story.provisioned(each)[0].from_checkpoint_id == UUID(between))
    assert machine != worked.machine
    assert await stage.file(story, machine, tmp_path / "out") == AFTER, (done.out, done.err)


@each_agent
async def test_what_the_workspace_says_of_providers_and_keys_is_not_believed(
    stage: Stage, agent: Agent, tmp_path: Path
) -> None:
    files = [f"--file={path}={_written(tmp_path / str(number), text)}" for number, (path, text) in enumerate(ELSEWHERE)]
    project = await stage.project(agent.project("elsewhere"))
    async with stage.running(project, agent, "5CAD", *files) as running:
        done = await running
    assert done.exit_code == 0, (done.out, done.err)
    story, machine = await told(stage.hub), await stage.machine(project)
    assert await stage.file(story, machine, tmp_path / "out") == AFTER, (done.out, done.err)


def _written(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


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


def _calls(story: Story, machine: str) -> list[tuple[CallReserved, CallSettled]]:
    events = story.machine(machine)
    settled = {event.call_id: event for event in events if isinstance(event, CallSettled)}
    return [(event, settled[event.call_id]) for event in events if isinstance(event, CallReserved)]


def _enough_for(calls: list[tuple[CallReserved, CallSettled]], number: int) -> Decimal:
    """Return a budget, CAD, that so many calls like these can be held in, and the next, which is larger, cannot."""
    *past, (reserved, settled) = calls[:number]
    return sum((each.cost_cad for _, each in past), reserved.held[Resource.MONEY]) + settled.cost_cad / 2


def _refusals(stage: Stage, machine: str) -> int:
    """How many requests of a machine the gateway has refused, by its log."""
    return sum("call.refused" in line and machine in line for line in stage.hub.said.splitlines())


async def _kill(hub: RunningHub, machine: str) -> None:
    """Kill a machine's agent and all that runs in its sandbox, at once."""
    groups = [group for group in processes.groups(hub.data) if group.name.startswith(machine)]
    inside = list({process.pid: process for group in groups for process in processes.in_group(group)}.values())
    everything = processes.tree(hub.process.pid)
    zygote = next(each for each in everything if "agent.zygote" in each.command and each.parent == hub.process.pid)
    agents = [each for each in everything if each.parent == zygote.pid]
    agent = next(each for each in agents if inside[0] in processes.tree(each.pid))
    for process in (agent, *inside):
        with suppress(ProcessLookupError):  # with the agent dies what it has started
            os.kill(process.pid, signal.SIGKILL)
    await eventually(lambda: not any(process.is_alive for process in (agent, *inside)), timeout_s=5)
