"""Options of `autovibe project create` and `set` that say what a project's machines are and when they are captured."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated, TypedDict, cast

import typer

from cli import units
from cli.exits import CliError, Exit
from cli.framing import pairs
from cli.hub import Json

SETUP_BYTES_MAX = 16_384
"""As many as the event takes characters."""


class BetweenCalls(StrEnum):
    """Whether the next model call waits until the workspace is captured."""

    CHANGED = "changed"
    ALWAYS = "always"
    NEVER = "never"


class FirstWords(StrEnum):
    """Whether an agent that starts from another machine's checkpoint goes on with the conversation found there."""

    FRESH = "fresh"
    FORK = "fork"


Agent = Annotated[
    str | None,
    typer.Option("--agent", help="What its goals run on: shell, claude_code, claude_api, qwen_coder, aider."),
]
Model = Annotated[str | None, typer.Option("--model", help='The model of its AI agents; "" for the hub\'s default.')]
ModelAllowed = Annotated[
    list[str] | None, typer.Option("--model-allowed", help='Pattern, e.g. "claude-*"; again for more, "" for all.')
]
Cpu = Annotated[str | None, typer.Option(help="Cores of each machine, e.g. 0.5.")]
Memory = Annotated[str | None, typer.Option(help="Of each machine, e.g. 512M, 2G.")]
Disk = Annotated[str | None, typer.Option(help="Of each machine, e.g. 4G.")]
Deadline = Annotated[str | None, typer.Option(help="How long a goal may take, e.g. 90s, 15m, 2h.")]
Env = Annotated[list[str] | None, typer.Option(help="NAME=VALUE for each machine; it is logged, so no secrets.")]
Setup = Annotated[
    str | None, typer.Option("--setup", help='File of a bash script that runs before the agent; "": none.')
]
Every = Annotated[str | None, typer.Option("--checkpoint-every", help="While files change, e.g. 300s.")]
Between = Annotated[
    BetweenCalls | None, typer.Option("--between-calls", help="Capture before the next model call goes out.")
]
CallsMax = Annotated[
    int | None, typer.Option("--calls-max", min=1, max=1_000, help="At most so many model calls between checkpoints.")
]
BeforeRisk = Annotated[
    bool | None, typer.Option("--before-risk/--no-before-risk", help="Capture before a risky tool call is delivered.")
]
RiskRule = Annotated[
    list[str] | None, typer.Option("--risk-rule", help="TOOL=INPUT, two regular expressions; again for more.")
]
Conversation = Annotated[
    FirstWords | None, typer.Option("--conversation", help="Of an agent that starts from another's checkpoint.")
]


class Said(TypedDict, total=False):
    """What was typed; None: not said."""

    agent: str | None
    model: str | None
    model_allowed: list[str] | None
    cpu: str | None
    memory: str | None
    disk: str | None
    deadline: str | None
    env: list[str] | None
    setup: str | None
    conversation: FirstWords | None
    checkpoint_every: str | None
    between_calls: BetweenCalls | None
    calls_max: int | None
    before_risk: bool | None
    risk_rule: list[str] | None


def agent_policy(said: Said, now: Json) -> Json | None:
    """Return the policy `now` with what was said of it; None: nothing was."""
    policy: Json = {}
    if agent := said.get("agent"):
        policy["machine_type"] = agent
    if (model := said.get("model")) is not None:
        policy["model"] = model or None
    if (allowed := said.get("model_allowed")) is not None:
        policy["models_allowed"] = [pattern for pattern in allowed if pattern]
    if limits := _limits(said):
        policy["limits"] = {**cast("Json", now.get("limits") or {}), **limits}
    if env := said.get("env"):
        policy["env"] = {**cast("Json", now.get("env") or {}), **pairs(env, "--env")}
    if (setup := said.get("setup")) is not None:
        policy["setup"] = _script(setup) if setup else ""
    if conversation := said.get("conversation"):
        policy["conversation"] = conversation.value
    return {**now, **policy} if policy else None


def checkpoint_policy(said: Said, now: Json) -> Json | None:
    """Return the policy `now` with what was said of it; None: nothing was."""
    policy: Json = {}
    if every := said.get("checkpoint_every"):
        policy["interval_s"] = units.seconds(every, "--checkpoint-every")
    if between := said.get("between_calls"):
        policy["between_calls"] = between.value
    if calls := said.get("calls_max"):
        policy["calls_max"] = calls
    if (before_risk := said.get("before_risk")) is not None:
        policy["before_risk"] = before_risk
    if (rules := said.get("risk_rule")) is not None:
        policy["risk_rules"] = [_rule(rule) for rule in rules if rule]
    return {**now, **policy} if policy else None


def _limits(said: Said) -> Json:
    limits: Json = {}
    if cpu := said.get("cpu"):
        limits["cpu_milli"] = units.cores(cpu, "--cpu")
    if memory := said.get("memory"):
        limits["memory_mib"] = units.mebibytes(memory, "--memory")
    if disk := said.get("disk"):
        limits["disk_mib"] = units.mebibytes(disk, "--disk")
    if deadline := said.get("deadline"):
        limits["deadline_s"] = units.seconds(deadline, "--deadline")
    return limits


def _rule(text: str) -> Json:
    tool, _, found = text.partition("=")
    if not tool:
        raise CliError(Exit.USAGE, f"--risk-rule {text!r} is not TOOL=INPUT")
    return {"tool": tool, "input": found}


def _script(path: str) -> str:
    try:
        with Path(path).open("rb") as source:
            text = source.read(SETUP_BYTES_MAX + 1)
        if len(text) > SETUP_BYTES_MAX:
            raise CliError(
                Exit.USAGE,
                f"--setup {path} is larger than {SETUP_BYTES_MAX} bytes",
                remedy="make it a file of the project and have the script call it",
            )
        return text.decode()
    except (OSError, UnicodeDecodeError) as error:
        raise CliError(Exit.USAGE, f"--setup {path}: {error}") from error
