"""Claude Code as it is: the native program, headless, in the sandbox. Facts were measured with 2.1.329."""

import json
from uuid import UUID

from agent.runners.port import GATEWAY, CannotRun, Program, Start
from agent.runners.stream_json import StreamJsonReader
from events.agent import AgentSpec

OUTPUT_TOKENS_MAX = 16_384
"""Of one answer. Each call is paid for in advance as if it were so long, so this decides how much has to be left."""
SETTINGS = "AUTOVIBE_CLAUDE_CODE_SETTINGS"
RULES = (
    "You work alone and unattended in a sandbox; the workspace is the current directory. There is no network but the "
    "model's. Nobody answers questions: decide, do the work, and say at the end what you did."
)

_RUN = f"""
settings=$(mktemp) || exit 1
printf %s "${SETTINGS}" > "$settings"
unset {SETTINGS}
exec "$@" --settings "$settings"
"""
"""A `.claude/settings.json` in the workspace has an environment too, which counts more than ours and less than that of
settings that are named. They hold the token, so they are in /tmp, which is never captured.
"""


class ClaudeCodeRunner:
    """Its own stream is `stream-json`; a conversation is a file below `~/.claude/projects`."""

    own_stream = True
    converses = True

    def program(self, spec: AgentSpec, start: Start) -> Program:
        if spec.tool is None or spec.model is None:
            raise CannotRun("a machine of type claude_code needs the program and a model")
        return Program(
            argv=("bash", "-c", _RUN, "claude", *spec.tool.command, *_arguments(spec.model, start)),
            env={
                "CLAUDE_CODE_MAX_OUTPUT_TOKENS": str(OUTPUT_TOKENS_MAX),
                "CLAUDE_CODE_MAX_RETRIES": "10",
                **spec.env,
                "ANTHROPIC_BASE_URL": GATEWAY,
                "ANTHROPIC_AUTH_TOKEN": spec.gateway_token,
                "CLAUDE_CODE_SUBAGENT_MODEL": spec.model,
                "ANTHROPIC_SMALL_FAST_MODEL": spec.model,
                "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
                "DISABLE_AUTOUPDATER": "1",
                "IS_SANDBOX": "1",
                SETTINGS: json.dumps(_settings(spec)),
            },
            stdin=start.prompt(spec.goal),
        )

    def transcripts(self, spec: AgentSpec, session_id: UUID) -> tuple[str, ...]:
        return (f"home/.claude/projects/{spec.runner_workspace.replace('/', '-')}/{session_id}.jsonl",)

    def reader(self, spec: AgentSpec) -> StreamJsonReader:
        del spec
        return StreamJsonReader("Claude Code")


def _settings(spec: AgentSpec) -> dict[str, object]:
    return {
        # A conversation older than 30 days is deleted otherwise; a parked machine may wait longer.
        "cleanupPeriodDays": 3_650,
        "env": {
            "ANTHROPIC_BASE_URL": GATEWAY,
            "ANTHROPIC_AUTH_TOKEN": spec.gateway_token,
            # A proxy that a file in the workspace names is tried for minutes, and never reached.
            **dict.fromkeys(("NO_PROXY", "no_proxy"), "*"),
        },
    }


def _arguments(model: str, start: Start) -> tuple[str, ...]:
    return (
        "-p",
        "--output-format",
        "stream-json",
        "--verbose",
        "--dangerously-skip-permissions",
        "--model",
        model,
        "--append-system-prompt",
        RULES,
        *_conversation(start),
    )


def _conversation(start: Start) -> tuple[str, ...]:
    own = str(start.session_id)
    match start.mode:
        case "fresh":
            return ("--session-id", own)
        case "resume":
            return ("--resume", own)
        case "fork":
            return ("--resume", str(start.forked_from), "--fork-session", "--session-id", own)
