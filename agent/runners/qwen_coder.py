"""Qwen Code as it is: its JavaScript under Node 22 or later, in the sandbox. Facts were measured with 0.24.4."""

import json
from uuid import UUID

from agent.runners.port import GATEWAY, CannotRun, Program, Start
from agent.runners.stream_json import StreamJsonReader
from events.agent import AgentSpec

SETTINGS = ".qwen/settings.json"


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
                *spec.tool.command,
                "--yolo",
                "--output-format",
                "stream-json",
                "--auth-type",
                protocol,
                "--model",
                spec.model,
                *_conversation(start),
            ),
            env={**spec.env, **settings, "QWEN_CODE_SUPPRESS_YOLO_WARNING": "1", "NO_UPDATE_NOTIFIER": "1"},
            stdin=start.prompt(spec.goal),
            files={SETTINGS: json.dumps(_SETTINGS)},
        )

    def transcripts(self, spec: AgentSpec, session_id: UUID) -> tuple[str, ...]:
        return (f"home/.qwen/projects/{spec.runner_workspace.replace('/', '-')}/chats/{session_id}.jsonl",)

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


def _conversation(start: Start) -> tuple[str, ...]:
    own = str(start.session_id)
    match start.mode:
        case "fresh":
            return ("--session-id", own)
        case "resume":
            return ("--resume", own)
        case "fork":
            return ("--resume", str(start.forked_from), "--fork-session", "--session-id", own)
