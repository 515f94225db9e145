"""Qwen Code as it is: its JavaScript under Node 22 or later, in the sandbox. Facts were measured with 0.24.4."""

import json
from uuid import UUID

from agent.runners.port import GATEWAY, CannotRun, Program, Start
from agent.runners.stream_json import StreamJsonReader
from events.agent import AgentSpec

SETTINGS = ".qwen/settings.json"
OUTPUT_TOKENS_MAX = 16_384
"""Of one answer. Each call is paid for in advance as if it were so long; Qwen Code asks for 32,000 to 64,000 itself."""

_RUN = """
copy_from=$1 copy_to=$2 other=$3 own=$4; shift 4
if [ -n "$copy_from" ] && [ ! -e "$copy_to" ]; then sed "s/$other/$own/g" "$copy_from" > "$copy_to" || exit 1; fi
exec "$@"
"""
"""A fork under an id of our choice: Qwen Code itself chooses one, and would not say it before the first word."""


class QwenCoderRunner:
    """Its own stream is `stream-json`; a conversation is a file below `~/.qwen/projects`, found in the same cwd alone."""

    own_stream = True
    converses = True

    def program(self, spec: AgentSpec, start: Start) -> Program:
        if spec.tool is None or spec.model is None:
            raise CannotRun("a machine of type qwen_coder needs the program and a model")
        protocol, settings = _upstream(spec, spec.model)
        return Program(
            argv=(
                *_forked(spec, start),
                *spec.tool.command,
                "--yolo",
                "--output-format",
                "stream-json",
                "--auth-type",
                protocol,
                "--model",
                spec.model,
                "--session-id" if start.mode == "fresh" else "--resume",
                str(start.session_id),
            ),
            env={
                "QWEN_CODE_MAX_OUTPUT_TOKENS": str(OUTPUT_TOKENS_MAX),
                **spec.env,
                **settings,
                "QWEN_CODE_SUPPRESS_YOLO_WARNING": "1",
                "NO_UPDATE_NOTIFIER": "1",
            },
            stdin=start.prompt(spec.goal),
            files={SETTINGS: json.dumps(_SETTINGS)},
        )

    def transcripts(self, spec: AgentSpec, session_id: UUID) -> tuple[str, ...]:
        return (f"home/{_chat(spec, session_id)}",)

    def reader(self, spec: AgentSpec) -> StreamJsonReader:
        del spec
        return StreamJsonReader("Qwen Code")


_SETTINGS = {
    "privacy": {"usageStatisticsEnabled": False},
    "telemetry": {"enabled": False},
    "general": {"disableAutoUpdate": True, "disableUpdateNag": True, "enableAutoUpdate": False},
}


def _upstream(spec: AgentSpec, model: str) -> tuple[str, dict[str, str]]:
    """The protocol and how the gateway is found by it."""
    if model.startswith("claude-"):
        return "anthropic", {"ANTHROPIC_BASE_URL": GATEWAY, "ANTHROPIC_API_KEY": spec.gateway_token}
    return "openai", {
        "OPENAI_BASE_URL": f"{GATEWAY}/v1",
        "OPENAI_API_KEY": spec.gateway_token,
        "OPENAI_MODEL": model,
    }


def _chat(spec: AgentSpec, session_id: UUID) -> str:
    return f".qwen/projects/{spec.runner_workspace.replace('/', '-')}/chats/{session_id}.jsonl"


def _forked(spec: AgentSpec, start: Start) -> tuple[str, ...]:
    """What runs before Qwen Code where it goes on from a copy of another conversation."""
    if start.mode != "fork" or start.forked_from is None:
        return ()
    chats = [f"{spec.runner_home}/{_chat(spec, each)}" for each in (start.forked_from, start.session_id)]
    return ("bash", "-c", _RUN, "qwen", *chats, str(start.forked_from), str(start.session_id))
