"""The life of a machine, as events. Each class says which phase it puts the machine in (None: the phase stays).

A machine is a permanent identity; an incarnation (epoch 1, 2, 3, …) is one sandbox or VM and the only thing that
can be lost. Which transitions are allowed is `domain.machine`.
"""

from decimal import Decimal
from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, field_validator, model_validator

from events.base import (
    NAME_CHARS_MAX,
    Amount,
    Count,
    Digest,
    Epoch,
    Event,
    Goal,
    Greediness,
    Id,
    Money,
    Name,
    Text,
    Time,
    Value,
)
from events.words import Hold, MachineType, Outcome, Phase, Resource, Said, Unit

FILE_TEXT_CHARS_MAX = 65_536
FILES_MAX = 256
ENV_MAX = 128


class Limits(Value):
    """What one machine may use at most; enforced by the hypervisor."""

    cpu_milli: Annotated[int, Field(ge=50, le=256_000)] = 1_000
    """Thousandths of a core."""
    memory_mib: Annotated[int, Field(ge=16, le=4_194_304)] = 1_024
    disk_mib: Annotated[int, Field(ge=1, le=67_108_864)] = 4_096
    """What the workspace, home and /tmp may grow to together; also the largest single file."""
    processes: Annotated[int, Field(ge=1, le=1_000_000)] = 256
    deadline_s: Annotated[int, Field(ge=1, le=30 * 86_400)] = 3_600
    """How long the goal may take, over all incarnations, from the first WorkStarted."""


class InjectedFile(Value):
    """A file put or replaced in the workspace at spawn: its text inline, or the digest of a chunk in the store."""

    path: Annotated[str, Field(min_length=1, max_length=4_096)]
    text: Annotated[str, Field(max_length=FILE_TEXT_CHARS_MAX)] | None = None
    digest: Digest | None = None
    mode: Annotated[int, Field(ge=0, le=0o777)] = 0o644

    @field_validator("path")
    @classmethod
    def _inside_the_workspace(cls, path: str) -> str:
        if "\0" in path or any(part in {"", ".", ".."} for part in path.split("/")):
            raise ValueError(f"{path[:200]!r} is not a relative file path inside the workspace")
        return path

    @model_validator(mode="after")
    def _one_content(self) -> Self:
        if (self.text is None) == (self.digest is None):
            raise ValueError(f"file {self.path!r} needs exactly one of text and digest")
        return self


Env = Annotated[
    dict[Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]{0,127}$")], Annotated[str, Field(max_length=8_192)]],
    Field(max_length=ENV_MAX),
]


class MachineEvent(Event):
    """The base of what happens to a machine; the aggregate's id is the machine's."""

    aggregate: ClassVar[str] = "machine"
    phase: ClassVar[Phase | None] = None
    """The phase after it, whatever was before; None keeps the phase."""


class MachineRequested(MachineEvent):
    """Somebody wants a goal pursued. Said at the door; answered by budget (admitted, queued or denied).

    Without `from_checkpoint_id` the machine starts from the project's current checkpoint (the trunk) and, when
    it succeeds, advances it; with one it is a branch.
    """

    said_by: ClassVar[tuple[Said, ...]] = (Said.DOOR,)
    phase: ClassVar[Phase | None] = Phase.REQUESTED

    goal: Goal
    machine_type: MachineType = MachineType.SHELL
    """Left out when asking: the project's. In the log it is always decided, as are limits, environment and model."""
    from_checkpoint_id: Id | None = None
    files: Annotated[tuple[InjectedFile, ...], Field(max_length=FILES_MAX)] = ()
    limits: Limits = Limits()
    env: Env = {}
    """Logged, so no secrets."""
    budget: Money | None = None
    """The machine's own money cap, CAD; also what is reserved for it. None: what its limits cost at the tariff."""
    calls: Amount | None = None
    """The machine's own cap of model API calls; also what is reserved. None: no calls are reserved."""
    greediness: Greediness | None = None
    model: Name | None = None
    """The model an AI agent is to use; None: the project's, else the hub's default for the type."""
    metadata: Annotated[dict[str, Annotated[str, Field(max_length=NAME_CHARS_MAX)]], Field(max_length=32)] = {}


class MachineStopRequested(MachineEvent):
    """Somebody wants a machine to end, whatever its phase. Said at the door; answered by spawner (and budget, while queued)."""

    said_by: ClassVar[tuple[Said, ...]] = (Said.DOOR,)

    reason: Text = ""


class MachineRestoreRequested(MachineEvent):
    """Somebody wants a live machine to go on from another checkpoint. Said at the door; answered by spawner.

    A safety checkpoint is taken first and a new incarnation starts; history is not rewritten.
    """

    said_by: ClassVar[tuple[Said, ...]] = (Said.DOOR,)

    checkpoint_id: Id
    reason: Text = ""


class MachineAdmitted(MachineEvent):
    """The budgets hold what the machine may use at most. Said by budget, in one batch with the reservations."""

    said_by: ClassVar[tuple[Said, ...]] = (Said.BUDGET,)

    reservation_id: Id
    held: Annotated[dict[Resource, Amount], Field(max_length=8)]
    """What is reserved by resource: money in CAD, time in minutes, api_calls in calls."""


class MachineQueued(MachineEvent):
    """Reservations of others, or the hub's capacity, stand in the way; tried again when they are resolved. Said by budget."""

    said_by: ClassVar[tuple[Said, ...]] = (Said.BUDGET,)
    phase: ClassVar[Phase | None] = Phase.QUEUED

    hold: Literal[Hold.BUDGET, Hold.CAPACITY]
    node: Name
    """The budget account that is short: `_hub`, a slug or a machine id."""
    resource: Resource | None = None
    asked: Amount = Decimal(0)
    available: Amount = Decimal(0)
    wants: Annotated[dict[Resource, Amount], Field(max_length=8)] = {}
    """All that is to be set aside for it, by resource."""
    greediness: Greediness | None = None
    """The request's own; None: the project's."""


class MachineDenied(MachineEvent):
    """The budget can never hold what was asked: what is allocated less what is used is too small. Terminal. Said by budget."""

    said_by: ClassVar[tuple[Said, ...]] = (Said.BUDGET,)
    phase: ClassVar[Phase | None] = Phase.ENDED

    node: Name
    resource: Resource
    unit: Unit
    asked: Amount
    available: Amount
    allocated: Amount
    used: Amount
    reason: Text


class MachineProvisioningStarted(MachineEvent):
    """An incarnation is being made on a host.

    Said by spawner before any effect: what is found on a host without it is an orphan.
    """

    said_by: ClassVar[tuple[Said, ...]] = (Said.SPAWNER,)
    phase: ClassVar[Phase | None] = Phase.PROVISIONING

    epoch: Epoch
    hypervisor: Name
    node: Name
    from_checkpoint_id: Id
    snapshot: Digest
    on_trunk: bool
    """Whether success advances the project's current checkpoint."""


class MachineBooted(MachineEvent):
    """The incarnation exists and its agent is coming up. Said by spawner."""

    said_by: ClassVar[tuple[Said, ...]] = (Said.SPAWNER,)
    phase: ClassVar[Phase | None] = Phase.STARTING

    epoch: Epoch
    vm_id: Name
    enforcement: Text = ""
    """What enforces the limits on this host, e.g. `cgroup v1: cpu memory pids; rlimits: fsize nofile`."""


class MachineBecameReady(MachineEvent):
    """The agent has registered and restored the checkpoint. Said by spawner."""

    said_by: ClassVar[tuple[Said, ...]] = (Said.SPAWNER,)
    phase: ClassVar[Phase | None] = Phase.READY

    epoch: Epoch
    restore_ms: Count = 0


class MachineWorkStarted(MachineEvent):
    """The runner pursues the goal. Said by spawner."""

    said_by: ClassVar[tuple[Said, ...]] = (Said.SPAWNER,)
    phase: ClassVar[Phase | None] = Phase.WORKING

    epoch: Epoch


class MachineProgressed(MachineEvent):
    """The agent says how far it is; at most one a second reaches the log. Said by spawner."""

    said_by: ClassVar[tuple[Said, ...]] = (Said.SPAWNER,)

    epoch: Epoch
    message: Text
    percent: Annotated[int, Field(ge=0, le=100)] | None = None


class MachineCheckpointingStarted(MachineEvent):
    """Work is held while the workspace is captured. Said by spawner."""

    said_by: ClassVar[tuple[Said, ...]] = (Said.SPAWNER,)
    phase: ClassVar[Phase | None] = Phase.CHECKPOINTING

    epoch: Epoch
    checkpoint_id: Id


class MachineHeld(MachineEvent):
    """Something stands in the way of the machine's running; a machine that runs parks at the next boundary.

    Said by budget (budget), gateway (rate_limit) and spawner. Answered by spawner, which drains and parks it.
    """

    said_by: ClassVar[tuple[Said, ...]] = (Said.BUDGET, Said.GATEWAY, Said.SPAWNER)

    epoch: Epoch
    """The epoch that ran into it; one that is over by then is not held again."""
    hold: Hold
    reason: Text
    until: Time | None = None
    """When it goes by itself; None: when somebody or something lifts it."""


class MachineDrainingStarted(MachineEvent):
    """The agent was told to stop the runner and seal. Said by spawner."""

    said_by: ClassVar[tuple[Said, ...]] = (Said.SPAWNER,)
    phase: ClassVar[Phase | None] = Phase.DRAINING

    epoch: Epoch
    outcome: Outcome | None = None
    """None: it parks."""
    reason: Text


class MachineSealingStarted(MachineEvent):
    """The runner is over; the final checkpoint is being taken. Said by spawner."""

    said_by: ClassVar[tuple[Said, ...]] = (Said.SPAWNER,)
    phase: ClassVar[Phase | None] = Phase.SEALING

    epoch: Epoch
    outcome: Outcome | None = None
    """None: it parks."""
    exit_code: Annotated[int, Field(ge=-255, le=255)] | None = None
    reason: Text = ""
    checkpoint_id: Id | None = None
    """The final or parking checkpoint to wait for; None when none could be captured."""
    network_bytes: Count = 0
    """What the incarnation sent and received."""


class MachineParked(MachineEvent):
    """No VM, no credential, no reservation; resumed from its parking checkpoint when its holds are gone. Said by spawner."""

    said_by: ClassVar[tuple[Said, ...]] = (Said.SPAWNER,)
    phase: ClassVar[Phase | None] = Phase.PARKED

    epoch: Epoch
    hold: Hold
    checkpoint_id: Id | None = None
    reason: Text = ""
    until: Time | None = None
    """When the hold goes by itself."""


class MachineResumed(MachineEvent):
    """A hold is gone: by its time, or because somebody lifted it. Said by spawner; by budget with a new MachineAdmitted.

    A parked machine without holds is admitted anew by budget, then its next epoch starts from the parking checkpoint.
    """

    said_by: ClassVar[tuple[Said, ...]] = (Said.SPAWNER, Said.BUDGET)

    hold: Hold


class MachineContactLost(MachineEvent):
    """Three heartbeats were missed. Said by spawner."""

    said_by: ClassVar[tuple[Said, ...]] = (Said.SPAWNER,)
    phase: ClassVar[Phase | None] = Phase.UNREACHABLE

    epoch: Epoch
    last_beat_at: Time | None = None


class MachineRecoveryStarted(MachineEvent):
    """An incarnation is lost and fenced; the next epoch starts from an earlier checkpoint. Said by spawner."""

    said_by: ClassVar[tuple[Said, ...]] = (Said.SPAWNER,)
    phase: ClassVar[Phase | None] = Phase.RECOVERING

    epoch: Epoch
    """The epoch that was lost."""
    attempt: Annotated[int, Field(ge=1, le=100)]
    from_checkpoint_id: Id | None = None
    """None: from where the machine first started."""
    reason: Text


class MachineQuarantined(MachineEvent):
    """The machine is kept as it is for a human to look at. Said by spawner."""

    said_by: ClassVar[tuple[Said, ...]] = (Said.SPAWNER,)
    phase: ClassVar[Phase | None] = Phase.QUARANTINED

    epoch: Epoch
    reason: Text


class MachineEndingStarted(MachineEvent):
    """The incarnation is being taken down; the outcome is decided. Said by spawner."""

    said_by: ClassVar[tuple[Said, ...]] = (Said.SPAWNER,)
    phase: ClassVar[Phase | None] = Phase.ENDING

    epoch: Annotated[int, Field(ge=0, le=1_000_000)] = 0
    outcome: Outcome
    reason: Text = ""


class MachineEnded(MachineEvent):
    """The end: nothing of the machine runs any more. Terminal. Said by spawner; by budget for one that was never admitted.

    Answered by budget: the reservation is settled with the usage recorded before it.
    """

    said_by: ClassVar[tuple[Said, ...]] = (Said.SPAWNER, Said.BUDGET)
    phase: ClassVar[Phase | None] = Phase.ENDED

    epoch: Annotated[int, Field(ge=0, le=1_000_000)] = 0
    """0: it never had an incarnation."""
    outcome: Outcome
    exit_code: Annotated[int, Field(ge=-255, le=255)] | None = None
    reason: Text = ""
    checkpoint_id: Id | None = None
    """The final checkpoint, or the last good one."""


class UsageRecorded(MachineEvent):
    """What a machine used of one resource over a span, and what that cost.

    Said by spawner (compute) and gateway (model calls).
    """

    said_by: ClassVar[tuple[Said, ...]] = (Said.SPAWNER, Said.GATEWAY)

    epoch: Epoch
    resource_type: Resource
    resource_subtype: Name
    """`vm_runtime`, `claude_api`, `storage_snapshot`, …"""
    amount: Amount
    unit: Unit
    cost_cad: Money
    cost: Money | None = None
    """What it was billed in, where that is not CAD."""
    currency: Annotated[str, Field(pattern=r"^[A-Z]{3}$")] = "CAD"
    period_start: Time
    period_end: Time
    metadata: Annotated[dict[str, Annotated[str, Field(max_length=NAME_CHARS_MAX)]], Field(max_length=32)] = {}
