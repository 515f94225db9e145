"""Aider as it is: its own Python environment, one message, in the sandbox. Facts were measured with 0.86.2."""

import re
from uuid import UUID

from agent.runners.port import GATEWAY, CannotRun, Ending, Heard, Program, Start
from agent.runners.shell import signal_name
from events.agent import AgentProgressed, AgentSpec

HISTORY = ".autovibe/aider"
MESSAGE = ".autovibe/aider/message.md"
REASON_CHARS_MAX = 2_000
_ERROR = re.compile(r"litellm\.\w+(Error|Exception)\b.*|Traceback \(most recent call last\).*")
_EDIT = re.compile(r"Applied edit to (?P<path>.+)")
_ANSWER = re.compile(r"Tokens: .* sent, .* received")

_RUN = """
copy_from=$1 copy_to=$2 names=$3; shift 3
if [ -n "$copy_from" ] && [ ! -e "$copy_to" ]; then cp -- "$copy_from" "$copy_to"; fi
if [ -e .git ]; then set -- "$@" --git --auto-commits --no-gitignore; else set -- "$@" --no-git; fi
last=$(mktemp) || exit 1
for name in $names; do printf "%s='%s'\n" "$name" "${!name}"; done > "$last"
exec "$@" --env-file "$last"
"""
"""Aider makes a repository of a directory that is none; here it commits only where there is one already.

It believes a `.env` in the workspace more than its environment, and the file that is named last more than that one; many
projects have keys of their own there. The file is in /tmp, which is never captured.
"""


class AiderRunner:
    """Its output is for people as it is; a conversation is a Markdown file that it reads again. No session ids."""

    own_stream = False
    converses = True

    def program(self, spec: AgentSpec, start: Start) -> Program:
        if spec.tool is None or spec.model is None:
            raise CannotRun("a machine of type aider needs the program and a model")
        own = _history(spec, start.session_id)
        forked = _history(spec, start.forked_from) if start.mode == "fork" and start.forked_from else ""
        again = () if start.mode == "fresh" else ("--restore-chat-history",)
        model, upstream = _upstream(spec, spec.model)
        return Program(
            argv=(
                "bash",
                "-c",
                _RUN,
                "aider",
                forked,
                own,
                " ".join(upstream),
                *spec.tool.command,
                *_arguments(spec, model, own),
                *again,
            ),
            env={
                "GIT_AUTHOR_NAME": "aider",
                "GIT_AUTHOR_EMAIL": "aider@localhost",
                "GIT_COMMITTER_NAME": "aider",
                "GIT_COMMITTER_EMAIL": "aider@localhost",
                **spec.env,
                **upstream,
                "LITELLM_LOCAL_MODEL_COST_MAP": "True",
            },
            files={MESSAGE: start.prompt(spec.goal)},
        )

    def transcripts(self, spec: AgentSpec, session_id: UUID) -> tuple[str, ...]:
        del spec
        return (f"home/{HISTORY}/{session_id}.md",)

    def reader(self, spec: AgentSpec) -> "AiderReader":
        del spec
        return AiderReader()


class AiderReader:
    """Judges by what it prints: its exit code is 0 on every failure.

    After each answer it prints what was sent and received; an error that no answer follows is the end.
    """

    def __init__(self) -> None:
        self._answers = 0
        self._error = ""

    def read(self, line: str) -> Heard:
        if _ANSWER.search(line):
            self._answers += 1
            self._error = ""
        elif _ERROR.match(line.strip()):
            self._error = line.strip()[:REASON_CHARS_MAX]
        elif found := _EDIT.match(line.strip()):
            return Heard(progress=AgentProgressed(message=f"changed: {found['path'][:4000]}"))
        return Heard()

    def read_error(self, line: str) -> None:
        if _ERROR.match(line.strip()):
            self._error = line.strip()[:REASON_CHARS_MAX]

    def judge(self, exit_code: int) -> Ending:
        if exit_code:
            how = f"was ended by {signal_name(-exit_code)}" if exit_code < 0 else f"ended with {exit_code}"
            return Ending("failed", f"aider {how}{': ' + self._error if self._error else ''}")
        if self._error:
            return Ending("failed", f"aider: {self._error}")
        if not self._answers:
            return Ending("failed", "aider ended without an answer of the model")
        return Ending("succeeded")


def _history(spec: AgentSpec, session_id: UUID) -> str:
    return f"{spec.runner_home}/{HISTORY}/{session_id}.md"


def _upstream(spec: AgentSpec, model: str) -> tuple[str, dict[str, str]]:
    """The model as aider names it, and how the gateway is found by its protocol.

    What begins with AIDER_ counts before a `.aider.conf.yml` in the workspace.
    """
    protocol = "anthropic" if model.startswith(("claude-", "anthropic/")) else "openai"
    url = GATEWAY if protocol == "anthropic" else f"{GATEWAY}/v1"
    prefix = protocol.upper()
    return f"{protocol}/{model.removeprefix(f'{protocol}/')}", {
        "NO_PROXY": "*",
        f"{prefix}_API_BASE": url,
        f"{prefix}_BASE_URL": url,
        f"{prefix}_API_KEY": spec.gateway_token,
        f"AIDER_{prefix}_API_KEY": spec.gateway_token,
        "AIDER_API_KEY": f"{protocol}={spec.gateway_token}",
        "AIDER_OPENAI_API_BASE": f"{GATEWAY}/v1",
        "AIDER_SET_ENV": f"{prefix}_API_BASE={url}",
    }


def _arguments(spec: AgentSpec, model: str, history: str) -> tuple[str, ...]:
    home = spec.runner_home
    return (
        *("--model", model, "--weak-model", model),
        *("--message-file", f"{home}/{MESSAGE}"),
        *("--chat-history-file", history, "--input-history-file", f"{home}/{HISTORY}/input"),
        "--yes-always",
        "--no-check-update",
        "--analytics-disable",
        "--no-show-model-warnings",
        "--no-show-release-notes",
        "--no-detect-urls",
        "--no-pretty",
        "--no-fancy-input",
        "--no-suggest-shell-commands",
    )
