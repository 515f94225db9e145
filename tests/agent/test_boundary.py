"""Captures between model calls: only when files changed, and only when the conversation holds the last results."""

import asyncio
import json
import os
from pathlib import Path

import pytest

from agent.transcript import WAIT_S, has_results
from agent.workspace import Workspace
from events.agent import AgentSpec, Capture, MachineSpec, WorkspaceCaptured
from events.fresh import uuid7
from events.words import CheckpointType, CreationContext
from tests.agent.machines import Base
from tests.agent.stack import Stack
from tests.harness.waiting import eventually


async def asked(stack: Stack, spec: MachineSpec) -> str:
    body = Capture(
        checkpoint_id=uuid7(),
        checkpoint_type=CheckpointType.AUTOMATIC,
        creation_context=CreationContext.REQUESTED,
        only_changes=True,
    )
    answer = await stack.hub.command(spec.machine_id, "Capture", body)
    assert answer["checkpoint_id"] == str(body.checkpoint_id)
    return str(answer["report"])


@pytest.mark.asyncio(loop_scope="module")
async def test_a_capture_of_changes_is_none_when_only_the_home_has_changed(stack: Stack) -> None:
    goal = "echo up; while [ ! -e ~/go ]; do echo x >> ~/history; sleep 0.02; done"
    spec = stack.base.spec(goal, stack.server.url)
    await stack.hypervisor.create(spec)
    try:
        workspace = stack.directory / "data" / "machines" / str(spec.machine_id) / "1" / "workspace"

        async def is_up() -> bool:
            return "up" in await stack.hub.text(spec.machine_id)

        async def settled() -> bool:
            return await asked(stack, spec) == "NothingChanged"

        await eventually(is_up)
        await eventually(settled)  # a file restored in the clock's present tick is captured once more
        (workspace / "new").write_text("x")
        assert await asked(stack, spec) == "WorkspaceCaptured"
        await eventually(settled)
        reports = [each for each in await stack.hub.reports(spec.machine_id) if isinstance(each, WorkspaceCaptured)]
        assert 2 <= len(reports) <= 4
    finally:
        await stack.hypervisor.destroy(spec.machine_id, 1)


def home_of(tmp_path: Path) -> Workspace:
    given = Base(tmp_path / "base").spec("true", "nats://nowhere")
    spec = AgentSpec(**{name: getattr(given, name) for name in type(given).model_fields}, root=str(tmp_path / "root"))
    for name in ("workspace", "home"):
        (tmp_path / "root" / name).mkdir(parents=True)
    return Workspace(spec)


def line(**fields: object) -> str:
    return json.dumps(fields) + "\n"


@pytest.mark.asyncio
async def test_the_conversation_is_waited_for_until_it_holds_the_results(tmp_path: Path) -> None:
    workspace = home_of(tmp_path)
    transcript = tmp_path / "root" / "home" / "talk.jsonl"
    transcript.write_text(line(type="tool_use", id="toolu_1") + line(type="tool_use", id="toolu_2"))
    opens = [lambda: workspace.open("home/none.jsonl"), lambda: workspace.open("home/talk.jsonl")]
    waiting = asyncio.create_task(has_results(opens, ["toolu_1", "toolu_2"]))
    with transcript.open("a") as file:
        file.write(line(type="tool_result", tool_use_id="toolu_2"))
        file.flush()
        _, late = await asyncio.wait({waiting}, timeout=0.1)
        assert late
        whole = line(type="tool_result", tool_use_id="toolu_1")
        file.write(whole[:20])
        file.flush()
        _, late = await asyncio.wait({waiting}, timeout=0.1)
        assert late
        file.write(whole[20:])
    assert await asyncio.wait_for(waiting, WAIT_S)


@pytest.mark.asyncio
async def test_a_conversation_that_never_holds_them_is_not_waited_for_longer(tmp_path: Path) -> None:
    workspace = home_of(tmp_path)
    began_s = asyncio.get_running_loop().time()
    assert not await has_results([lambda: workspace.open("home/none.jsonl")], ["toolu_1"])
    assert WAIT_S <= asyncio.get_running_loop().time() - began_s < WAIT_S + 1


@pytest.mark.asyncio
async def test_a_conversation_that_is_a_link_or_a_pipe_is_none(tmp_path: Path) -> None:
    workspace, home = home_of(tmp_path), tmp_path / "root" / "home"
    secret = tmp_path / "secret"
    secret.write_text("x")
    (home / "link").symlink_to(secret)
    (home / "directory").symlink_to(tmp_path)
    os.mkfifo(home / "pipe")
    for path in ("home/link", "home/directory/secret", "home/pipe", "home", "home/none"):
        assert workspace.open(path) is None
