"""What agents print, read into what people read and how it ended. Lines are from runs of the real programs, shortened."""

import json
import os
import subprocess
from collections.abc import Mapping
from pathlib import Path
from uuid import UUID

import pytest

from agent.runners import RUNNERS
from agent.runners.aider import AiderReader
from agent.runners.port import CannotRun, Ending, Reader, Start
from agent.runners.stream_json import StreamJsonReader
from events.agent import AgentSpec, AgentTool
from events.fresh import uuid7
from events.words import MachineType

OWN, OTHER = UUID(int=1), UUID(int=2)
TOKEN = "token-of-one-epoch"

INIT = {"type": "system", "subtype": "init", "model": "claude-sonnet-5-5", "claude_code_version": "2.1.329"}
WRITE = {"type": "tool_use", "id": "t1", "name": "Write", "input": {"file_path": "/workspace/a.py", "content": "x"}}
WROTE = {"type": "tool_result", "tool_use_id": "t1", "content": "File created"}
DENIED = {"type": "tool_result", "tool_use_id": "t1", "content": "Exit code 1\nno such file", "is_error": True}
DONE = {"type": "result", "subtype": "success", "is_error": False, "terminal_reason": "completed", "result": "Done."}


def said(kind: str, *blocks: Mapping[str, object]) -> dict[str, object]:
    return {"type": kind, "message": {"role": kind, "content": list(blocks)}}


def heard(reader: Reader, *said: object) -> list[str]:
    return [text for each in said for text in reader.read(each if isinstance(each, str) else json.dumps(each)).lines]


def spec(machine_type: MachineType, *, model: str | None = "rehearsal-1", tool: bool = True) -> AgentSpec:
    return AgentSpec(
        project="shop",
        machine_id=uuid7(),
        epoch=1,
        machine_type=machine_type,
        goal="add a test",
        snapshot="0" * 64,
        parent_checkpoint_id=uuid7(),
        env={"ANTHROPIC_BASE_URL": "http://elsewhere", "OPENAI_BASE_URL": "http://elsewhere", "KEPT": "1"},
        model=model,
        tool=AgentTool(command=("/opt/agent",)) if tool else None,
        gateway_token=TOKEN,
        deadline_in_s=60,
        nats_url="nats://127.0.0.1:4222",
        store="/store",
        root="/root-of-it",
    )


def test_a_run_reads_as_what_was_said_which_tools_were_used_and_what_changed() -> None:
    reader = StreamJsonReader("Claude Code")
    text = {"type": "text", "text": "I begin."}
    lines = heard(reader, INIT, said("assistant", text), said("assistant", WRITE), said("user", WROTE), DONE)
    assert lines == [
        "Claude Code 2.1.329 with claude-sonnet-5-5",
        "I begin.",
        "tool: Write /workspace/a.py",
        "  changed: /workspace/a.py",
    ]
    assert reader.judge(0) == Ending("succeeded")


def test_a_tool_that_failed_changed_nothing() -> None:
    reader = StreamJsonReader("Claude Code")
    assert heard(reader, said("assistant", WRITE), said("user", DENIED))[1:] == ["  failed: Exit code 1…"]


def test_a_refusal_of_the_provider_is_a_failure_though_it_says_success_and_leaves_with_0() -> None:
    reader = StreamJsonReader("Claude Code")
    refused = {**DONE, "is_error": True, "terminal_reason": "api_error", "result": "autovibe: the budget is used up"}
    heard(reader, INIT, refused)
    assert reader.judge(0) == Ending("failed", "Claude Code: autovibe: the budget is used up (api_error)")


@pytest.mark.parametrize("change", [{"terminal_reason": "hook_stopped"}, {"subtype": "error_max_turns"}])
def test_a_run_that_was_cut_short_is_a_failure(change: dict[str, str]) -> None:
    reader = StreamJsonReader("Claude Code")
    heard(reader, {**DONE, **change})
    assert reader.judge(0).outcome == "failed"


def test_a_run_without_a_result_is_a_failure_whatever_the_exit_code_says() -> None:
    reader = StreamJsonReader("Qwen Code")
    heard(reader, INIT)
    reader.read_error("No saved session found with ID 1")
    assert reader.judge(0) == Ending(
        "failed", "Qwen Code ended with 0 and said no result: No saved session found with ID 1"
    )
    assert "SIGKILL" in reader.judge(-9).reason


@pytest.mark.parametrize(
    "line",
    [
        "", "not JSON", "[1]", "null", "{}", '{"type":1}', '{"type":"assistant"}', '{"type":"user","message":3}',
        '{"type":"assistant","message":{"content":[null,{"type":"tool_use","input":[]}]}}', "[" * 100_000,
        '{"type":"result"}', '{"type":"system"}',
    ],
)  # fmt: skip
def test_anything_at_all_may_be_in_a_line(line: str) -> None:
    reader = StreamJsonReader("Claude Code")
    reader.read(line)
    assert reader.judge(0).outcome == "failed"


def test_aider_is_judged_by_an_answer_after_the_last_error() -> None:
    reader = AiderReader()
    retried = ("litellm.RateLimitError: slow down", "Retrying in 0.2 seconds...")
    for line in (*retried, "Tokens: 596 sent, 11 received.", "Applied edit to hello.txt"):
        reader.read(line)
    assert reader.judge(0) == Ending("succeeded")
    reader.read("litellm.BadRequestError: AnthropicException - autovibe: the budget is used up")
    assert reader.judge(0).outcome == "failed"
    assert "the budget is used up" in reader.judge(0).reason


def test_aider_without_an_answer_has_failed_whatever_its_exit_code_says() -> None:
    assert AiderReader().judge(0) == Ending("failed", "aider ended without an answer of the model")


AGENTS = (MachineType.CLAUDE_CODE, MachineType.QWEN_CODER, MachineType.AIDER)


@pytest.mark.parametrize("machine_type", AGENTS)
@pytest.mark.parametrize("model", ["claude-sonnet-5-5", "rehearsal-1"])
def test_an_agent_reaches_the_gateway_alone_and_its_token_is_in_no_argument_and_no_file(
    machine_type: MachineType, model: str
) -> None:
    program = RUNNERS[machine_type].program(spec(machine_type, model=model), Start(OWN))
    used = {value for name, value in program.env.items() if name.endswith(("_BASE_URL", "_API_BASE"))}
    assert any(value.startswith("http://127.0.0.1:8080") for value in used)
    assert program.env["KEPT"] == "1"
    assert TOKEN in program.env.values()
    assert TOKEN not in " ".join((*program.argv, *program.files.values(), program.stdin))
    assert "add a test" in program.stdin or "add a test" in "".join(program.files.values())


@pytest.mark.parametrize("machine_type", [MachineType.CLAUDE_CODE, MachineType.AIDER])
def test_what_counts_before_a_workspaces_own_settings_is_in_a_file_outside_of_what_is_captured(
    machine_type: MachineType, tmp_path: Path
) -> None:
    shows_last = AgentTool(command=("bash", "-c", 'cat "${@: -1}"', "shows"))
    asked = spec(machine_type, model="claude-sonnet-5-5").model_copy(update={"tool": shows_last})
    program = RUNNERS[machine_type].program(asked, Start(OWN))
    env = {"PATH": os.environ["PATH"], "TMPDIR": str(tmp_path), **program.env}
    told = subprocess.run(program.argv, env=env, capture_output=True, text=True, check=True, timeout=30).stdout
    assert TOKEN in told
    assert "http://127.0.0.1:8080" in told
    assert "elsewhere" not in told
    (file,) = tmp_path.iterdir()
    assert file.stat().st_mode & 0o077 == 0


@pytest.mark.parametrize("machine_type", AGENTS)
def test_a_conversation_begins_goes_on_and_is_forked_under_its_own_id(machine_type: MachineType) -> None:
    runner, asked = RUNNERS[machine_type], spec(machine_type)
    arguments = [
        " ".join(runner.program(asked, start).argv)
        for start in (Start(OWN), Start(OWN, "resume"), Start(OWN, "fork", OTHER))
    ]
    assert len(set(arguments)) == 3
    assert all(str(OWN) in each for each in arguments)
    assert [str(OTHER) in each for each in arguments] == [False, False, True]
    assert all(str(OWN) in path for path in runner.transcripts(asked, OWN))


@pytest.mark.parametrize("machine_type", AGENTS)
def test_an_agent_without_its_program_or_a_model_cannot_run(machine_type: MachineType) -> None:
    for asked in (spec(machine_type, tool=False), spec(machine_type, model=None)):
        with pytest.raises(CannotRun):
            RUNNERS[machine_type].program(asked, Start(OWN))
