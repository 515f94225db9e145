"""What passes between the hub and the agent in a machine: its spec, its reports, its commands. None of it is an event.

Reports arrive on `from.<project>.<machine>.<epoch>.<service>.<Report>` (JetStream `IN`, acknowledged); the subject says who
speaks, the body is only a claim. Commands go out on `cmd.<project>.<machine>.<epoch>.<Command>` (core request/reply,
answered by a report model). A heartbeat is an empty message on `beat.<project>.<machine>.<epoch>` every 10 s.
"""

from typing import Annotated, Literal

from pydantic import Field

from events.base import Count, Digest, Epoch, Goal, Id, Name, Slug, Text, Value
from events.machine import Env, InjectedFile, Limits
from events.project import AgentPolicy, CheckpointPolicy
from events.words import CheckpointType, CreationContext, MachineType

HEARTBEAT_S = 10.0
OUTPUT_LINE_BYTES_MAX = 16_384
OUTPUT_BYTES_PER_S_MAX = 262_144
"""Above it output is dropped and the gap is said."""


class AgentTool(Value):
    """An agent CLI as the sandbox is to see it."""

    command: Annotated[tuple[str, ...], Field(min_length=1, max_length=16)]
    """Argument prefix that starts it."""
    mounts: Annotated[tuple[str, ...], Field(max_length=32)] = ()
    """Directories or files of the host, absolute, that it needs; the sandbox sees them read-only at the same place."""
    version: Name | None = None


class MachineSpec(Value):
    """What one incarnation is to be: all that a hypervisor is asked for; the driver adds where it lives (`AgentSpec`)."""

    project: Slug
    machine_id: Id
    epoch: Epoch
    machine_type: MachineType
    goal: Goal
    snapshot: Digest
    """What the workspace is restored from."""
    parent_checkpoint_id: Id
    files: tuple[InjectedFile, ...] = ()
    """Only in epoch 1."""
    env: Env = {}
    limits: Limits = Limits()
    policy: CheckpointPolicy = CheckpointPolicy()
    agent_policy: AgentPolicy = AgentPolicy()
    model: Name | None = None
    """The model to use, decided: the request's, the project's or the hub's; None for what uses none."""
    tool: AgentTool | None = None
    gateway_url: str = ""
    """Where the agent reaches the gateway, `http://host:port`; the runner is given an address of its own that leads there.

    Empty: this machine reaches no model."""
    gateway_token: Annotated[str, Field(repr=False)] = ""
    """What the runner shows the gateway: good for this machine and epoch alone."""
    deadline_in_s: Annotated[float, Field(gt=0)]
    """What is left of the goal's deadline."""
    nats_url: str
    nats_creds: Annotated[str, Field(repr=False)] = ""
    """Text of a creds file; empty on a server without authentication."""
    store: str
    """Directory path or URL of the chunk store."""


class AgentSpec(MachineSpec):
    """All an agent needs to run one incarnation. Written by the hypervisor driver for the agent alone (mode 0600 or a pipe)."""

    root: str
    """Directory that holds `workspace` and `home` of this incarnation, as the agent sees it."""
    launcher: tuple[str, ...] = ()
    """Argument prefix that confines the runner (the driver's: bwrap and limits); empty inside a VM."""
    cgroups: tuple[str, ...] = ()
    """Directories of the runner's control groups: the agent freezes, kills and reads out-of-memory kills by what they offer."""
    runner_workspace: str = "/workspace"
    runner_home: str = "/home/agent"


class AgentRegistered(Value):
    """The agent is up. To spawner."""

    agent_version: Name
    pid: Count = 0


class WorkspaceRestored(Value):
    """The workspace stands; the runner starts now. To spawner."""

    restore_ms: Count
    file_count: Count


class AgentProgressed(Value):
    """To spawner; at most one a second."""

    message: Text
    percent: Annotated[int, Field(ge=0, le=100)] | None = None


class WorkspaceCaptured(Value):
    """A snapshot is durable in the store. To checkpointer."""

    checkpoint_id: Id
    checkpoint_type: CheckpointType
    creation_context: CreationContext
    parent_id: Id
    snapshot: Digest
    file_count: Count
    size_bytes: Count
    stored_bytes: Count
    captured_bytes: Count = 0
    capture_ms: Count
    added: Count = 0
    changed: Count = 0
    removed: Count = 0
    skipped: Annotated[tuple[Name, ...], Field(max_length=32)] = ()


class CaptureFailed(Value):
    """To checkpointer; also the answer to Capture when it could not be done."""

    checkpoint_id: Id
    reason: Text


class NothingChanged(Value):
    """The answer to a Capture with `only_changes` when the last checkpoint still holds; no checkpoint is made."""

    checkpoint_id: Id
    """The one that was asked for and is not made."""


class AgentFinished(Value):
    """The runner is over and the final capture, if any, was reported before. To spawner; the agent ends after it."""

    outcome: Literal["succeeded", "failed", "cancelled", "expired", "parked"]
    exit_code: Annotated[int, Field(ge=-255, le=255)] | None = None
    reason: Text = ""
    checkpoint_id: Id | None = None
    network_bytes: Count = 0
    """What went out of the sandbox and came in, both together."""


class Capture(Value):
    """Command: capture now; answered by WorkspaceCaptured, NothingChanged or CaptureFailed (`report` names which)."""

    checkpoint_id: Id
    checkpoint_type: CheckpointType
    creation_context: CreationContext
    deadline_s: Annotated[float, Field(gt=0, le=300)] = 60.0
    only_changes: bool = False
    transcript_has: Annotated[tuple[Name, ...], Field(max_length=256)] = ()
    """Ids of tool uses whose results the agent's own conversation file must hold first; waited for at most 2 s."""


class Stop(Value):
    """Command: stop the runner (interrupt, TERM, then the PID namespace), seal, report AgentFinished, end.

    Answered at once by `{}`.
    """

    reason: Text = ""
    outcome: Literal["cancelled", "expired", "parked"] = "cancelled"
    """parked: the capture is a parking checkpoint, and the machine goes on from it later."""
    grace_s: Annotated[float, Field(ge=0, le=60)] = 5.0
    seal: bool = True


REPORTS: dict[str, type[Value]] = {
    model.__name__: model
    for model in (AgentRegistered, WorkspaceRestored, AgentProgressed, WorkspaceCaptured, CaptureFailed, AgentFinished)
}
COMMANDS: dict[str, type[Value]] = {model.__name__: model for model in (Capture, Stop)}
