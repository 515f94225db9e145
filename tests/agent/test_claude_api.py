"""The built-in agent in a real sandbox: it works with its tools, saves every message, and goes on from the last one."""

import json
from pathlib import Path
from typing import cast
from uuid import UUID

import pytest

from events.agent import AgentFinished, AgentProgressed, MachineSpec, Stop, WorkspaceCaptured
from events.fresh import uuid7
from events.machine import Limits
from events.project import AgentPolicy
from events.words import MachineType
from services.spawner.own_python import compile_once, own_python
from snapshots.directory import DirectoryChunkStore
from snapshots.restore import restore
from tests.agent.machines import finished, report
from tests.agent.provider import Provider, call, provider, text
from tests.agent.stack import Stack
from tests.harness.waiting import eventually

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(120)]
LIMITS = Limits(memory_mib=512, processes=64, disk_mib=64, cpu_milli=2000, deadline_s=90)
TOKEN = "avm_a-token-of-this-epoch"
EDIT = call("toolu_1", "bash", command="echo one > made; echo it ran")
LOOK = call("toolu_2", "read", file_path="made")


@pytest.fixture(scope="module", autouse=True)
def compiled() -> None:
    assert compile_once()


def spec_of(stack: Stack, gateway: Provider, *, machine_id: UUID | None = None, epoch: int = 1) -> MachineSpec:
    spec = stack.base.spec("make it", stack.server.url, machine_id=machine_id, epoch=epoch, limits=LIMITS)
    tool = own_python()
    assert tool is not None
    return spec.model_copy(
        update={
            "machine_type": MachineType.CLAUDE_API,
            "model": "claude-test",
            "gateway_url": gateway.url,
            "gateway_token": TOKEN,
            "tool": tool,
            "deadline_in_s": 90.0,
        }
    )


async def run(stack: Stack, spec: MachineSpec) -> AgentFinished:
    return await stack.run(spec, timeout_s=60)


async def next_epoch(stack: Stack, gateway: Provider, spec: MachineSpec) -> MachineSpec:
    last = await report(stack.hub, spec.machine_id, WorkspaceCaptured, spec.epoch)
    following = spec_of(stack, gateway, machine_id=spec.machine_id, epoch=spec.epoch + 1)
    return following.model_copy(update={"snapshot": last.snapshot, "parent_checkpoint_id": last.checkpoint_id})


def files_of(stack: Stack, digest: str, directory: Path) -> dict[str, str]:
    with DirectoryChunkStore(stack.base.store) as store:
        restore(digest, directory, store)
    return {str(path.relative_to(directory)): path.read_text() for path in directory.rglob("*") if path.is_file()}


def said(sent: dict[str, object]) -> list[dict[str, object]]:
    return cast("list[dict[str, object]]", sent["messages"])


async def test_it_works_with_its_tools_and_says_so_in_readable_lines_and_in_its_own_stream(
    stack: Stack, tmp_path: Path
) -> None:
    async with provider([text("I look."), EDIT], [LOOK], [text("Made it.")]) as gateway:
        spec = spec_of(stack, gateway)
        end = await run(stack, spec)
        assert (end.outcome, end.exit_code, end.reason) == ("succeeded", 0, "")
        lines = await stack.hub.text(spec.machine_id)
        assert [line for line in lines if line.startswith(("I look", "tool:", "Made"))] == [
            "I look.",
            "tool: bash echo one > made; echo it ran",
            "tool: read made",
            "Made it.",
        ]
        stream = [json.loads(line) for line in await stack.hub.text(spec.machine_id, source="raw")]
        assert (stream[0]["subtype"], stream[-1]["terminal_reason"]) == ("init", "completed")
        assert "it ran" in json.dumps(said(gateway.sent[1])[-1])
        assert "one" in json.dumps(said(gateway.sent[2])[-1])
        assert [len(said(each)) for each in gateway.sent] == [1, 3, 5]
        assert all("thread" not in each for each in gateway.sent)
        assert gateway.headers[0]["Authorization"] == f"Bearer {TOKEN}"
        assert (await report(stack.hub, spec.machine_id, AgentProgressed)).message.startswith("tool: ")
        last = await report(stack.hub, spec.machine_id, WorkspaceCaptured)
        files = files_of(stack, last.snapshot, tmp_path / "out")
        assert files["workspace/made"] == "one\n"
        assert not [path for path, content in files.items() if TOKEN in content]


async def test_a_refused_call_ends_it_with_one_request_and_the_next_epoch_sends_that_call_again(stack: Stack) -> None:
    async with provider([EDIT], 400) as gateway:
        spec = spec_of(stack, gateway)
        end = await run(stack, spec)
        assert (end.outcome, len(gateway.sent)) == ("failed", 2)
        assert "autovibe: the budget is spent" in end.reason
        async with provider([EDIT], [text("Done.")]) as topped_up:
            following = await next_epoch(stack, topped_up, spec)
            end = await run(stack, following)
            assert end.outcome == "succeeded"
            assert [said(each) for each in topped_up.sent] == [said(gateway.sent[1])]


async def test_one_that_is_stopped_in_a_tool_goes_on_and_is_told_that_the_tool_was_interrupted(stack: Stack) -> None:
    slow = call("toolu_s", "bash", command="echo begun > begun; sleep 60")
    async with provider([slow], [text("Done.")]) as gateway:
        spec = spec_of(stack, gateway)
        await stack.hypervisor.create(spec)
        workspace = stack.directory / "data" / "machines" / str(spec.machine_id) / "1" / "workspace"
        await eventually((workspace / "begun").exists, timeout_s=30)
        await stack.hub.command(spec.machine_id, "Stop", Stop(grace_s=10))
        end = await finished(stack.hub, spec.machine_id)
        assert (end.outcome, end.exit_code) == ("cancelled", -2)
        await stack.hypervisor.destroy(spec.machine_id, 1)
        following = await next_epoch(stack, gateway, spec)
        assert (await run(stack, following)).outcome == "succeeded"
        result = cast("list[dict[str, object]]", said(gateway.sent[1])[-1]["content"])[0]
        assert (result["tool_use_id"], result["is_error"]) == ("toolu_s", True)
        assert "not known" in str(result["content"])


async def test_one_whose_end_was_not_told_asks_nothing_again(stack: Stack) -> None:
    async with provider([text("Done.")]) as gateway:
        spec = spec_of(stack, gateway)
        await run(stack, spec)
        following = await next_epoch(stack, gateway, spec)
        assert ((await run(stack, following)).outcome, len(gateway.sent)) == ("succeeded", 1)


async def test_another_machine_begins_anew_or_forks_by_the_projects_policy(stack: Stack) -> None:
    async with provider([text("Done.")], [text("More.")]) as gateway:
        spec = spec_of(stack, gateway)
        await run(stack, spec)
        fresh = (await next_epoch(stack, gateway, spec)).model_copy(update={"machine_id": uuid7(), "epoch": 1})
        await run(stack, fresh)
        assert len(said(gateway.sent[1])) == 1
        forks = fresh.model_copy(update={"machine_id": uuid7(), "agent_policy": AgentPolicy(conversation="fork")})
        assert (await run(stack, forks)).outcome == "succeeded"
        assert [each["role"] for each in said(gateway.sent[2])] == ["user", "assistant", "user"]
        assert "make it" in json.dumps(said(gateway.sent[2])[-1])


async def test_neither_a_file_nor_a_variable_in_the_sandbox_leads_its_calls_elsewhere(stack: Stack) -> None:
    async with provider([text("Done.")]) as gateway, provider([text("Stolen.")]) as elsewhere:
        setup = (
            "for m in anthropic agent json; do mkdir -p $m; echo 'raise SystemExit(7)' > $m/__init__.py; done; "
            "mkdir -p ~/.local/lib/python3.11/site-packages; "
            "echo 'raise SystemExit(8)' > ~/.local/lib/python3.11/site-packages/usercustomize.py; "
            f"echo ANTHROPIC_BASE_URL={elsewhere.url} | tee .env ~/.env ~/.bashrc ~/.profile"
        )
        spec = spec_of(stack, gateway).model_copy(
            update={"env": {"ANTHROPIC_BASE_URL": elsewhere.url, "PYTHONPATH": "/workspace", "PYTHONSTARTUP": "x"}}
        )
        spec = spec.model_copy(update={"agent_policy": AgentPolicy(setup=setup)})
        assert (await run(stack, spec)).outcome == "succeeded"
        assert (len(gateway.sent), len(elsewhere.sent)) == (1, 0)


async def test_a_setup_script_that_fails_ends_the_machine_with_its_output(stack: Stack) -> None:
    async with provider([text("Done.")]) as gateway:
        policy = AgentPolicy(setup="echo installing; echo 'no such package' >&2; exit 3")
        spec = spec_of(stack, gateway).model_copy(update={"agent_policy": policy})
        end = await run(stack, spec)
        assert (end.outcome, end.exit_code, len(gateway.sent)) == ("failed", 3, 0)
        assert "setup script ended with 3" in end.reason
        assert await stack.hub.text(spec.machine_id) == ["installing"]
        assert await stack.hub.text(spec.machine_id, source="stderr") == ["no such package"]


async def test_a_setup_script_runs_once_a_machine(stack: Stack) -> None:
    async with provider([EDIT], 400) as gateway:
        policy = AgentPolicy(setup="echo setup >> ran")
        spec = spec_of(stack, gateway).model_copy(update={"agent_policy": policy})
        await run(stack, spec)
        async with provider([EDIT], [call("toolu_3", "read", file_path="ran")], [text("Done.")]) as again:
            following = (await next_epoch(stack, again, spec)).model_copy(update={"agent_policy": policy})
            await run(stack, following)
            result = json.dumps(said(again.sent[1])[-1])
            assert result.count("setup") == 1


async def test_the_tools_never_see_the_token(stack: Stack) -> None:
    async with provider([call("toolu_1", "bash", command="env")], [text("Done.")]) as gateway:
        await run(stack, spec_of(stack, gateway))
        assert TOKEN not in json.dumps(gateway.sent)
        assert "HOME=/home/agent" in json.dumps(gateway.sent)
