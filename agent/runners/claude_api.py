"""The built-in agent: `agent.loop` in the sandbox, by an interpreter of the host that has `anthropic`."""

import json
from pathlib import Path
from uuid import UUID

import agent
from agent.runners.port import GATEWAY, CannotRun, Program, Reader, Start
from agent.runners.stream_json import StreamJsonReader
from events.agent import AgentSpec

TURNS_MAX = "AUTOVIBE_TURNS_MAX"
OUTPUT_TOKENS_MAX = "AUTOVIBE_OUTPUT_TOKENS_MAX"
"""Set in the environment of a project or a machine to go beyond what is usual, or to stay below."""
_USUAL = {TURNS_MAX: 200, OUTPUT_TOKENS_MAX: 16_000}
_CONVERSATIONS = ".autovibe/claude_api"

SYSTEM = """\
You are a software engineer at work in {workspace}, the workspace of a project, on a machine of your own. Reach the \
goal that you are given by yourself: nobody answers questions. Look at what is there before you change it, keep to the \
style that you find, and run the project's tests where it has any. The machine has no network. Your work is everything \
in {workspace}; it is kept as it is when you end. End with a short account of what you did and what is left open.\
"""


class ClaudeApiRunner:
    """Runs the SDK's tool runner; its conversation is a file in the home, saved with every message."""

    own_stream = True
    converses = True

    def program(self, spec: AgentSpec, start: Start) -> Program:
        if spec.tool is None:
            raise CannotRun("there is no interpreter with the Python package anthropic on this host: install it")
        if not spec.model:
            raise CannotRun("no model is named: set one by --model, for the project, or as the hub's default")
        if not spec.gateway_url:
            raise CannotRun("this hub has no model gateway: set AUTOVIBE_AGENT_GATEWAY_URL")
        home = Path(spec.runner_home)
        task = {
            "model": spec.model,
            "system": SYSTEM.format(workspace=spec.runner_workspace),
            "prompt": start.prompt(spec.goal),
            "conversation": str(home / _file(start.session_id)),
            "take_over": str(home / _file(start.forked_from)) if start.mode == "fork" and start.forked_from else None,
            "workspace": spec.runner_workspace,
            "turns_max": _number(spec, TURNS_MAX),
            "output_tokens_max": _number(spec, OUTPUT_TOKENS_MAX),
        }
        return Program(
            argv=(*spec.tool.command, "-P", "-s", "-m", "agent.loop"),
            env={
                **spec.env,
                "ANTHROPIC_BASE_URL": GATEWAY,
                "ANTHROPIC_AUTH_TOKEN": spec.gateway_token,
                "PYTHONPATH": str(Path(agent.__file__).parent.parent),
                "PYTHONUNBUFFERED": "1",
            },
            stdin=json.dumps(task),
        )

    def transcripts(self, spec: AgentSpec, session_id: UUID) -> tuple[str, ...]:
        del spec
        return (f"home/{_file(session_id)}",)

    def reader(self, spec: AgentSpec) -> Reader:
        del spec
        return StreamJsonReader("claude_api")


def _file(session_id: UUID) -> str:
    return f"{_CONVERSATIONS}/{session_id}.jsonl"


def _number(spec: AgentSpec, name: str) -> int:
    given = spec.env.get(name)
    if given is None:
        return _USUAL[name]
    if not given.isdecimal() or not 0 < int(given) <= 1_000_000:
        raise CannotRun(f"{name}={given[:50]!r} in the machine's environment: a number from 1 to 1000000 is needed")
    return int(given)
