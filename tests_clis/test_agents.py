"""Claude Code, Qwen Code and Aider as they are: they edit, are refused with one request, go on, and survive a kill."""

import asyncio
from dataclasses import dataclass
from pathlib import Path
from uuid import UUID

import pytest

from events.agent import AgentFinished, Capture, MachineSpec, WorkspaceCaptured
from events.fresh import uuid7
from events.machine import Limits
from events.words import CheckpointType, CreationContext, MachineType
from services.spawner.tools import Tools
from snapshots.directory import DirectoryChunkStore
from snapshots.restore import restore
from tests.agent.hostile import elsewhere, pointing_to
from tests.agent.machines import report
from tests.agent.provider import Block, call, text
from tests.agent.stack import Stack
from tests_clis.upstream import MESSAGE, Upstream, upstream

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(400)]
RUN_S = 180.0
LIMITS = Limits(memory_mib=4096, processes=256, disk_mib=2048, cpu_milli=2000, deadline_s=300)
TOKEN = "avm_a-token-of-this-epoch"


@dataclass(frozen=True, slots=True)
class Agent:
    """An agent and its own words for the same work."""

    machine_type: MachineType
    model: str
    turns: tuple[Block, ...]

    def __str__(self) -> str:
        return f"{self.machine_type}-{self.model}"


def qwen(model: str) -> Agent:
    write = call("t1", "write_file", file_path="/workspace/made.txt", content="one\n")
    look = call("t2", "run_shell_command", command="cat made.txt > seen.txt", is_background=False)
    return Agent(MachineType.QWEN_CODER, model, (write, look, text("All done.")))


CLAUDE = Agent(
    MachineType.CLAUDE_CODE,
    "claude-sonnet-4-5",
    (
        call("t1", "Write", file_path="/workspace/made.txt", content="one\n"),
        call("t2", "Bash", command="cat made.txt > seen.txt", description="look"),
        text("All done."),
    ),
)
WHOLE = "Here it is.\n\nmade.txt\n```\none\n```\n"
DIFF = "Here it is.\n\nmade.txt\n```\n<<<<<<< SEARCH\n=======\none\n>>>>>>> REPLACE\n```\n"
"""Aider asks models that it knows for the form of edits that it found best for them."""
AIDER = [
    Agent(MachineType.AIDER, "rehearsal-1", (text(WHOLE),)),
    Agent(MachineType.AIDER, "claude-sonnet-4-5", (text(DIFF),)),
]
WITH_TOOLS = [CLAUDE, qwen("qwen3-coder"), qwen("claude-sonnet-4-5")]
ALL = [*WITH_TOOLS, *AIDER]


async def spec_of(
    stack: Stack, tools: Tools, agent: Agent, gateway: Upstream, *, machine_id: UUID | None = None, epoch: int = 1
) -> MachineSpec:
    spec = stack.base.spec("Write made.txt", stack.server.url, machine_id=machine_id, epoch=epoch, limits=LIMITS)
    tool = await tools.tool_of(agent.machine_type)
    return spec.model_copy(
        update={
            "machine_type": agent.machine_type,
            "model": agent.model,
            "gateway_url": gateway.url,
            "gateway_token": TOKEN,
            "tool": tool,
            "deadline_in_s": 300.0,
        }
    )


async def next_epoch(stack: Stack, spec: MachineSpec, gateway: Upstream) -> MachineSpec:
    last = await report(stack.hub, spec.machine_id, WorkspaceCaptured, spec.epoch)
    return spec.model_copy(
        update={
            "epoch": spec.epoch + 1,
            "gateway_url": gateway.url,
            "snapshot": last.snapshot,
            "parent_checkpoint_id": last.checkpoint_id,
        }
    )


async def run(stack: Stack, spec: MachineSpec) -> AgentFinished:
    end = await stack.run(spec, timeout_s=RUN_S)
    assert end.outcome in {"succeeded", "failed"}, end
    return end


async def files_of(stack: Stack, spec: MachineSpec, directory: Path) -> dict[str, bytes]:
    last = await report(stack.hub, spec.machine_id, WorkspaceCaptured, spec.epoch)
    with DirectoryChunkStore(stack.base.store) as store:
        restore(last.snapshot, directory, store)
    return {str(path.relative_to(directory)): path.read_bytes() for path in directory.rglob("*") if path.is_file()}


@pytest.mark.parametrize("agent", ALL, ids=str)
async def test_it_edits_a_file_says_so_and_keeps_the_token_nowhere(
    stack: Stack, tools: Tools, agent: Agent, tmp_path: Path
) -> None:
    async with upstream(*agent.turns) as gateway:
        spec = await spec_of(stack, tools, agent, gateway)
        end = await run(stack, spec)
        lines = await stack.hub.text(spec.machine_id)
        assert end.outcome == "succeeded", (end, lines)
        assert any("made.txt" in line for line in lines)
        files = await files_of(stack, spec, tmp_path / "out")
        assert files["workspace/made.txt"] == b"one\n"
        assert not [path for path, content in files.items() if TOKEN.encode() in content]
        everything = [str(line) for line in await stack.hub.lines(spec.machine_id)]
        assert not [line for line in everything if TOKEN in line]


@pytest.mark.parametrize("agent", WITH_TOOLS, ids=str)
async def test_a_refusal_by_budget_ends_it_with_one_request_and_the_next_epoch_goes_on_from_there(
    stack: Stack, tools: Tools, agent: Agent
) -> None:
    async with upstream(*agent.turns) as gateway:
        gateway.refuse_from = 1
        spec = await spec_of(stack, tools, agent, gateway)
        end = await run(stack, spec)
        assert (end.outcome, gateway.refused) == ("failed", 1), end
        assert MESSAGE in end.reason
        gateway.refuse_from, before = None, len(gateway.sent)
        following = await next_epoch(stack, spec, gateway)
        assert (await run(stack, following)).outcome == "succeeded"
        assert "made.txt" in str(gateway.sent[before]["messages"]), "the conversation is the same"


@pytest.mark.parametrize("agent", AIDER, ids=str)
async def test_aider_too_is_refused_with_one_request_and_then_does_its_work(
    stack: Stack, tools: Tools, agent: Agent
) -> None:
    async with upstream(*agent.turns) as gateway:
        gateway.refuse_from = 0
        spec = await spec_of(stack, tools, agent, gateway)
        end = await run(stack, spec)
        assert (end.outcome, gateway.refused) == ("failed", 1), end
        gateway.refuse_from = None
        assert (await run(stack, await next_epoch(stack, spec, gateway))).outcome == "succeeded"


@pytest.mark.parametrize("agent", WITH_TOOLS, ids=str)
async def test_killed_after_a_checkpoint_between_two_calls_it_goes_on_from_that_checkpoint(
    stack: Stack, tools: Tools, agent: Agent
) -> None:
    captured: asyncio.Future[dict[str, object]] = asyncio.get_running_loop().create_future()

    async def capture_then_hold(done: int) -> None:
        if done != 1 or captured.done():
            return
        command = Capture(
            checkpoint_id=uuid7(),
            checkpoint_type=CheckpointType.AUTOMATIC,
            creation_context=CreationContext.BETWEEN_CALLS,
            transcript_has=(_use_id(gateway),),
        )
        captured.set_result(await stack.hub.command(spec.machine_id, "Capture", command, deadline_s=60))
        await asyncio.Event().wait()

    async with upstream(*agent.turns) as gateway:
        gateway.before = capture_then_hold
        spec = await spec_of(stack, tools, agent, gateway)
        await stack.hypervisor.create(spec)
        try:
            async with asyncio.timeout(RUN_S):
                answer = await captured
        finally:
            await stack.hypervisor.destroy(spec.machine_id, 1)
        assert answer.get("report") != "CaptureFailed", answer
        gateway.before, before = None, len(gateway.sent)
        following = await next_epoch(stack, spec, gateway)
        assert (await run(stack, following)).outcome == "succeeded"
        first = str(gateway.sent[before]["messages"])
        assert "made.txt" in first
        assert "outcome is unknown" not in first, "the last result is in the conversation that was captured"


def _use_id(gateway: Upstream) -> str:
    """The id of the tool use whose result the last request brings; agents choose their own forms of it."""
    found = str(gateway.sent[-1]["messages"])
    return "t1" if "t1" in found else ""


@pytest.mark.parametrize("agent", [CLAUDE, WITH_TOOLS[1], AIDER[0]], ids=str)
async def test_files_in_the_workspace_that_point_elsewhere_send_nothing_there(
    stack: Stack, tools: Tools, agent: Agent
) -> None:
    async with elsewhere() as other, upstream(*agent.turns) as gateway:
        spec = await spec_of(stack, tools, agent, gateway)
        end = await run(stack, spec.model_copy(update={"files": pointing_to(other.url)}))
        assert other.connections == 0
        if agent is CLAUDE:
            assert end.outcome == "succeeded", (end, await stack.hub.text(spec.machine_id))
