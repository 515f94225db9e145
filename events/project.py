"""What happens to a project."""

from decimal import Decimal
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from events.base import NAME_CHARS_MAX, Digest, Event, Greediness, Id, Name, Text, Value
from events.machine import Env, Limits
from events.words import MachineType, ProjectStatus, Said

SCRIPT_CHARS_MAX = 16_384


class RiskRule(Value):
    """A tool call of a model that the workspace is captured before: both patterns are found in the call.

    Patterns are regular expressions in the syntax of RE2, searched, case-sensitive: as Python's, without look-around and
    back-references, and with none that takes for ever.
    """

    tool: Annotated[str, Field(min_length=1, max_length=400)]
    """Searched in the tool's name."""
    input: Annotated[str, Field(max_length=400)] = ""
    """Searched in the tool's input as JSON; empty: any."""


RISK_RULES = (
    RiskRule(
        tool="(?i)^(bash|run_shell_command|shell)", input=r"\brm\s+-\w*[rf]|\bgit\s+(reset|clean|push|checkout|rebase)"
    ),
    RiskRule(
        tool="(?i)^(bash|run_shell_command|shell)", input=r"\b(dd|mkfs|shred|truncate)\b|\bDROP\s+(TABLE|DATABASE)\b"
    ),
    RiskRule(tool="(?i)delete|remove"),
)


class CheckpointPolicy(Value):
    """When the machines of a project are captured on their own."""

    at_start: bool = True
    at_end: bool = True
    interval_s: Annotated[int, Field(ge=5, le=86_400)] = 300
    """While files change, at least this often."""
    between_calls: Literal["changed", "always", "never"] = "changed"
    """Whether the next model call waits until the workspace is captured."""
    calls_max: Annotated[int, Field(ge=1, le=1_000)] = 5
    """At the latest after so many model calls since the last checkpoint."""
    before_risk: bool = True
    risk_rules: Annotated[tuple[RiskRule, ...], Field(max_length=64)] = RISK_RULES


class AgentPolicy(Value):
    """What the machines of a project are unless their request says otherwise."""

    machine_type: MachineType = MachineType.SHELL
    model: Name | None = None
    models_allowed: Annotated[tuple[Name, ...], Field(max_length=64)] = ()
    """Shell-style patterns (`claude-*`); empty: every model that an upstream offers and that has a price."""
    limits: Limits | None = None
    env: Env = {}
    """Logged, so no secrets; what the request sets comes after."""
    setup: Annotated[str, Field(max_length=SCRIPT_CHARS_MAX)] = ""
    """A bash script that runs in the workspace before the agent, in epoch 1."""
    conversation: Literal["fresh", "fork"] = "fresh"
    """Whether an agent that starts from another machine's checkpoint forks the conversation found there."""


Metadata = Annotated[dict[str, Annotated[str, Field(max_length=NAME_CHARS_MAX)]], Field(max_length=32)]


class ProjectEvent(Event):
    """The base of what happens to a project; the aggregate's id is the slug."""

    aggregate: ClassVar[str] = "project"


class ProjectCreated(ProjectEvent):
    """A project exists from now on. Said at the door; answered by issuer (account) and checkpointer (genesis).

    `genesis` is the digest of a snapshot that is already in the chunk store; without it the project starts empty.
    """

    said_by: ClassVar[tuple[Said, ...]] = (Said.DOOR,)

    description: Text = ""
    greediness: Greediness = Decimal("0.50")
    genesis: Digest | None = None
    checkpoint_policy: CheckpointPolicy = CheckpointPolicy()
    agent_policy: AgentPolicy = AgentPolicy()
    metadata: Metadata = {}


class ProjectUpdated(ProjectEvent):
    """Settings of a project changed; what is None stays. Said at the door.

    `current_checkpoint_id` moves the trunk by hand: the next goal without `from` starts there.
    """

    said_by: ClassVar[tuple[Said, ...]] = (Said.DOOR,)

    description: Text | None = None
    greediness: Greediness | None = None
    status: Literal[ProjectStatus.ACTIVE, ProjectStatus.PAUSED] | None = None
    checkpoint_policy: CheckpointPolicy | None = None
    agent_policy: AgentPolicy | None = None
    current_checkpoint_id: Id | None = None
    metadata: Metadata | None = None


class ProjectArchived(ProjectEvent):
    """A project takes no more requests; its history stays. Said at the door."""

    said_by: ClassVar[tuple[Said, ...]] = (Said.DOOR,)

    reason: Text = ""


class ProjectAdvanced(ProjectEvent):
    """The trunk moved on: the next goal without `from` starts from this checkpoint.

    Said by the checkpointer for genesis, by the spawner in one batch with the end of a machine that started
    from the trunk and succeeded.
    """

    said_by: ClassVar[tuple[Said, ...]] = (Said.CHECKPOINTER, Said.SPAWNER)

    checkpoint_id: Id
    machine_id: Id | None = None
