"""What a machine has come to: the fold of its events. `domain.machine` decides on it."""

from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from uuid import UUID

from domain.phases import BEFORE_ADMISSION, DEADLINES, GOAL_SLACK_S, LIVE, QUEUE_S, STABLE_S
from events import machine as m
from events.base import Event
from events.words import Hold, MachineType, Outcome, Phase, Resource, Said

NEVER = datetime.min.replace(tzinfo=UTC)
VM_RUNTIME = "vm_runtime"
"""`resource_subtype` of what the spawner meters; the gateway's own is different."""
RESTORE_REFUSED = "restore refused: "
"""How the message of a MachineProgressed begins that answers a MachineRestoreRequested with no."""


@dataclass(frozen=True, slots=True)
class Start:
    """What an incarnation starts from."""

    checkpoint_id: UUID
    snapshot: str


@dataclass(frozen=True, slots=True)
class Incarnation:
    """One VM or sandbox of a machine: the only thing of it that can be lost."""

    epoch: int
    hypervisor: str
    node: str
    start: Start
    provisioned_at: datetime
    vm_id: str = ""
    booted_at: datetime | None = None
    working_at: datetime | None = None
    seen_at: datetime = NEVER
    """The last event of this epoch: until then it surely ran."""
    metered: bool = False
    """Its use of the host is recorded."""

    def ran_until(self, now: datetime, *, surely: bool) -> datetime:
        """When it ended to run: now, or, where nobody saw it end, the last that was heard of it."""
        return now if surely else max(self.seen_at, self.booted_at or self.provisioned_at)


@dataclass(frozen=True, slots=True)
class Ending:
    """How the machine is to end, or to park, once that is decided."""

    outcome: Outcome | None
    """None: it parks."""
    reason: str = ""
    exit_code: int | None = None
    checkpoint_id: UUID | None = None
    """The final checkpoint to wait for."""


@dataclass(frozen=True, slots=True)
class Machine:
    """A machine as its events tell it; `Machine()` is one nobody has asked for."""

    phase: Phase | None = None
    since: datetime = NEVER
    """When the phase began, by the log's clock."""
    request: m.MachineRequested | None = None
    requested_at: datetime = NEVER
    reservation_id: UUID | None = None
    holds: frozenset[Hold] = frozenset()
    incarnation: Incarnation | None = None
    """The newest one, whether it still runs or not; `is_live` says."""
    base: Start | None = None
    """Where the machine began, or was restored to: recovery goes no further back."""
    base_epoch: int = 0
    on_trunk: bool = False
    work_began_at: datetime | None = None
    """The first WorkStarted: the goal's deadline counts from it over all incarnations."""
    attempts: int = 0
    next_from: UUID | None = None
    """What the recovery under way starts from; None: `base`."""
    stop: str | None = None
    """The reason of the first MachineStopRequested, "" without one; None: nobody wants it to end."""
    restore: UUID | None = None
    """The checkpoint somebody wants it to go on from: the one operation in flight."""
    refusals: tuple[str, ...] = ()
    """Restores asked for while another was in flight, not answered yet."""
    safety_id: UUID | None = None
    """The safety checkpoint being taken before a restore."""
    ending: Ending | None = None
    metered_s: Decimal = Decimal(0)
    """How long its incarnations ran together, as far as recorded."""
    progressed_at: datetime = NEVER

    @property
    def epoch(self) -> int:
        return self.incarnation.epoch if self.incarnation else 0

    @property
    def exists(self) -> bool:
        return self.phase is not None

    @property
    def is_ended(self) -> bool:
        return self.phase is Phase.ENDED

    @property
    def is_live(self) -> bool:
        return self.phase in LIVE

    @property
    def is_admitted(self) -> bool:
        return self.reservation_id is not None

    @property
    def machine_type(self) -> MachineType | None:
        return self.request.machine_type if self.request else None

    def hears(self, epoch: int) -> bool:
        """Whether what this epoch's agent says still counts; anything else is fenced."""
        return self.is_live and epoch == self.epoch


def due(machine: Machine) -> datetime | None:
    """When the machine's phase has lasted too long; None for one that has ended or does not exist."""
    if machine.phase is None or machine.phase is Phase.ENDED:
        return None
    if machine.phase in BEFORE_ADMISSION:
        waits_since = machine.since if machine.is_admitted else machine.requested_at
        return waits_since + timedelta(seconds=QUEUE_S)
    seconds = DEADLINES[machine.phase].seconds
    if seconds is not None:
        return machine.since + timedelta(seconds=seconds)
    return goal_due(machine) + timedelta(seconds=GOAL_SLACK_S)


def goal_due(machine: Machine) -> datetime:
    """When the goal's time is up; before the first WorkStarted it has not begun to run."""
    limits = machine.request.limits if machine.request else m.Limits()
    return (machine.work_began_at or machine.since) + timedelta(seconds=limits.deadline_s)


def evolve(machine: Machine, event: Event, at: datetime) -> Machine:
    """Return the machine after `event`, which the log recorded at `at`. Terminal is terminal.

    Any event of any prefix of any log is taken without an error; events of other aggregates change nothing.
    """
    if not isinstance(event, m.MachineEvent) or machine.is_ended:
        return machine
    machine = _details(machine, event, at)
    epoch: object = getattr(event, "epoch", None)
    if machine.incarnation and epoch == machine.epoch and Said.GATEWAY not in event.said_by:
        machine = replace(machine, incarnation=replace(machine.incarnation, seen_at=at))
    if event.phase is None or event.phase is machine.phase:
        return machine
    return replace(machine, phase=event.phase, since=at)


def _details(machine: Machine, event: m.MachineEvent, at: datetime) -> Machine:  # noqa: PLR0911 - one case an event
    """What an event changes besides the phase."""
    match event:
        case m.MachineRequested():
            return replace(machine, request=event, requested_at=at)
        case m.MachineAdmitted():
            return replace(machine, reservation_id=event.reservation_id, since=at, holds=frozenset())
        case m.MachineQueued() | m.MachineParked():
            return replace(machine, holds=machine.holds | {event.hold})
        case m.MachineResumed():
            return replace(machine, holds=machine.holds - {event.hold})
        case m.MachineStopRequested():
            return replace(machine, stop=event.reason if machine.stop is None else machine.stop)
        case m.MachineRestoreRequested():
            return _restore_asked(machine, event)
        case m.MachineProgressed():
            return _progressed(machine, event, at)
        case m.MachineCheckpointingStarted():
            return replace(machine, safety_id=event.checkpoint_id)
        case m.MachineDrainingStarted() | m.MachineEndingStarted() | m.MachineSealingStarted() | m.MachineEnded():
            return replace(machine, ending=_ending(machine, event))
        case _:
            return _incarnation(machine, event, at)


def _incarnation(machine: Machine, event: m.MachineEvent, at: datetime) -> Machine:
    """What an event changes about the incarnations."""
    newest = machine.incarnation
    match event:
        case m.MachineProvisioningStarted():
            return _provisioned(machine, event, at)
        case m.MachineBooted() if newest:
            return replace(machine, incarnation=replace(newest, vm_id=event.vm_id, booted_at=at))
        case m.MachineWorkStarted():
            working = replace(newest, working_at=newest.working_at or at) if newest else None
            back = machine.phase is Phase.CHECKPOINTING
            return replace(
                machine,
                incarnation=working,
                work_began_at=machine.work_began_at or at,
                restore=None if back else machine.restore,
                safety_id=None,
            )
        case m.MachineRecoveryStarted():
            return replace(machine, attempts=event.attempt, next_from=event.from_checkpoint_id, safety_id=None)
        case m.UsageRecorded(resource_subtype=subtype) if newest and subtype == VM_RUNTIME:
            return _metered(machine, newest, event)
        case _:
            return machine


def _provisioned(machine: Machine, event: m.MachineProvisioningStarted, at: datetime) -> Machine:
    start = Start(event.from_checkpoint_id, event.snapshot)
    restored = machine.restore is not None and machine.restore == event.from_checkpoint_id
    rebased = machine.base is None or restored
    return replace(
        machine,
        incarnation=Incarnation(event.epoch, event.hypervisor, event.node, start, at),
        base=start if rebased else machine.base,
        base_epoch=event.epoch if rebased else machine.base_epoch,
        on_trunk=event.on_trunk,
        restore=None if restored else machine.restore,
        safety_id=None,
        next_from=None,
        since=at,
    )


def _metered(machine: Machine, newest: Incarnation, event: m.UsageRecorded) -> Machine:
    if event.epoch == newest.epoch:
        machine = replace(machine, incarnation=replace(newest, metered=True))
    if event.resource_type is not Resource.TIME:
        return machine
    ran_s = Decimal((event.period_end - event.period_start) / timedelta(microseconds=1)) / 1_000_000
    return replace(machine, metered_s=machine.metered_s + ran_s)


def _restore_asked(machine: Machine, event: m.MachineRestoreRequested) -> Machine:
    """Identical joins; another one is to be refused with what is running."""
    if machine.restore is None:
        return replace(machine, restore=event.checkpoint_id)
    if machine.restore == event.checkpoint_id:
        return machine
    said = f"{RESTORE_REFUSED}asked for {event.checkpoint_id}, the restore to {machine.restore} is running"
    return replace(machine, refusals=(*machine.refusals, said))


def _progressed(machine: Machine, event: m.MachineProgressed, at: datetime) -> Machine:
    """A refusal takes back what it answers: the operation in flight, or one that was asked for meanwhile."""
    if not event.message.startswith(RESTORE_REFUSED):
        return replace(machine, progressed_at=at)
    if event.message in machine.refusals:
        return replace(machine, refusals=tuple(said for said in machine.refusals if said != event.message))
    return replace(machine, restore=None, safety_id=None)


def _ending(
    machine: Machine,
    event: m.MachineDrainingStarted | m.MachineEndingStarted | m.MachineSealingStarted | m.MachineEnded,
) -> Ending:
    known = machine.ending or Ending(event.outcome)
    exit_code = known.exit_code
    checkpoint_id = known.checkpoint_id
    if isinstance(event, m.MachineSealingStarted | m.MachineEnded):
        exit_code, checkpoint_id = event.exit_code, event.checkpoint_id
    return Ending(event.outcome, event.reason, exit_code, checkpoint_id)


def attempt_of_next_recovery(machine: Machine, at: datetime) -> int:
    """Which attempt a recovery beginning at `at` is; an incarnation that worked for long begins the count anew."""
    newest = machine.incarnation
    if newest and newest.working_at and at - newest.working_at >= timedelta(seconds=STABLE_S):
        return 1
    return machine.attempts + 1
