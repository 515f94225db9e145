"""What can be asked of a machine's decider. Times and ids are arguments; nothing here was looked up anywhere."""

from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from domain.machine_state import Start
from events.machine import UsageRecorded
from events.words import Outcome


@dataclass(frozen=True, slots=True)
class Provision:
    """Begin the next incarnation."""

    hypervisor: str
    node: str
    start: Start
    on_trunk: bool
    """Of the first incarnation; later ones keep what the first said."""
    fenced: int
    """The epoch of which nothing runs any more; it must be the machine's last, 0 before the first."""
    settled: bool = True
    usage: tuple[UsageRecorded, ...] = ()
    """What the fenced incarnation used, unless that is recorded."""


@dataclass(frozen=True, slots=True)
class Refuse:
    """No host will ever make it."""

    reason: str


@dataclass(frozen=True, slots=True)
class Booted:
    """The host has the incarnation."""

    epoch: int
    vm_id: str
    enforcement: str = ""


@dataclass(frozen=True, slots=True)
class Restored:
    """The agent has restored the workspace and starts the runner."""

    epoch: int
    restore_ms: int = 0


@dataclass(frozen=True, slots=True)
class Progressed:
    epoch: int
    message: str
    percent: int | None
    now: datetime


@dataclass(frozen=True, slots=True)
class Finished:
    """The runner is over and the final capture, if any, reported."""

    epoch: int
    outcome: Outcome | None
    """None: it was told to park."""
    exit_code: int | None = None
    reason: str = ""
    checkpoint_id: UUID | None = None
    network_bytes: int = 0


@dataclass(frozen=True, slots=True)
class BeatSeen:
    epoch: int


@dataclass(frozen=True, slots=True)
class BeatsMissed:
    epoch: int
    last_beat_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class Lost:
    """The incarnation is gone, or could not be made in time."""

    epoch: int
    reason: str
    candidates: tuple[Start, ...]
    """Good checkpoints to go on from: newest first, ending where the machine began."""
    now: datetime


@dataclass(frozen=True, slots=True)
class Stop:
    """Look at the stop that was asked for."""


@dataclass(frozen=True, slots=True)
class Park:
    """Look at what holds the machine."""


@dataclass(frozen=True, slots=True)
class Restore:
    """Look at the restore that was asked for."""

    safety_id: UUID
    impossible: str = ""
    """Why the wanted checkpoint cannot be started from; empty: it can."""


@dataclass(frozen=True, slots=True)
class CheckpointSettled:
    checkpoint_id: UUID
    taken: bool
    reason: str = ""


@dataclass(frozen=True, slots=True)
class DeadlinePassed:
    """Look whether the phase has lasted too long."""

    now: datetime
    candidates: tuple[Start, ...] = ()
    usage: tuple[UsageRecorded, ...] = ()
    last_good: UUID | None = None


@dataclass(frozen=True, slots=True)
class Destroyed:
    """Nothing of the incarnation runs any more and its credential is revoked."""

    epoch: int
    usage: tuple[UsageRecorded, ...] = ()
    last_good: UUID | None = None


@dataclass(frozen=True, slots=True)
class Meter:
    """Record what the incarnation used so far."""

    epoch: int
    usage: tuple[UsageRecorded, ...]


Command = (
    Meter
    | Provision
    | Refuse
    | Booted
    | Restored
    | Progressed
    | Finished
    | BeatSeen
    | BeatsMissed
    | Lost
    | Stop
    | Park
    | Restore
    | CheckpointSettled
    | DeadlinePassed
    | Destroyed
)
