"""What a machine has come to: the fold of its events. `domain.machine` decides on it."""

from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from uuid import UUID

from domain.holds import Held, Holds, add, lift
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
    """All its use of the host is recorded."""
    metered_until: datetime | None = None
    """Up to when it is recorded."""

    @property
    def metered_from(self) -> datetime | None:
        """From when on its use is not recorded yet; None: it never booted."""
        return self.metered_until or self.booted_at

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
    network_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Machine:
    """A machine as its events tell it; `Machine()` is one nobody has asked for."""

    phase: Phase | None = None
    since: datetime = NEVER
    """When the phase began, by the log's clock."""
    request: m.MachineRequested | None = None
    requested_at: datetime = NEVER
    reservation_id: UUID | None = None
    spent_id: UUID | None = None
    """The reservation under which the newest incarnation began; it is settled when the machine parks."""
    held: Holds = ()
    parks_for: Held | None = None
    """What the newest incarnation ran into: it parks, even when the hold is lifted before it has."""
    parked_at: datetime | None = None
    """Since when no incarnation works because it parked."""
    parked_for: timedelta = timedelta(0)
    """How long it was parked before that: time that is not the goal's."""
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
    """What the next incarnation starts from after a loss or a park; None: `base`."""
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
    def holds(self) -> frozenset[Hold]:
        return frozenset(each.hold for each in self.held)

    @property
    def is_parking(self) -> bool:
        """Whether it is on its way from work to rest, not to its end."""
        on_its_way = self.phase in {Phase.DRAINING, Phase.SEALING}
        return on_its_way and self.ending is not None and self.ending.outcome is None

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
    if seconds is None:
        return goal_due(machine) + timedelta(seconds=GOAL_SLACK_S)
    came = machine.since + timedelta(seconds=seconds)
    if machine.phase is Phase.SEALING and machine.is_parking:
        return came + timedelta(seconds=DEADLINES[Phase.ENDING].seconds or 0)
    if machine.phase is Phase.PARKED:
        return min([came, *(at for _, at in releases(machine))])
    return came


def is_sealed_late(machine: Machine, now: datetime) -> bool:
    """Whether a parking machine has waited for its checkpoint long enough: it is taken down without."""
    waited = now - machine.since
    return machine.is_parking and waited >= timedelta(seconds=DEADLINES[machine.phase or Phase.SEALING].seconds or 0)


def releases(machine: Machine) -> list[tuple[Hold, datetime]]:
    """Return the holds that go by themselves, with the time when each is to be lifted."""
    times = ((each.hold, each.released_at(machine.spent_id)) for each in machine.held)
    return [(hold, at) for hold, at in times if at is not None]


def goal_due(machine: Machine) -> datetime:
    """When the goal's time is up; before the first WorkStarted it has not begun to run."""
    limits = machine.request.limits if machine.request else m.Limits()
    return (machine.work_began_at or machine.since) + machine.parked_for + timedelta(seconds=limits.deadline_s)


def goal_left_s(machine: Machine, now: datetime) -> float:
    """How many seconds of work the goal still has; while it is parked they do not run."""
    if machine.work_began_at is None:
        return float(machine.request.limits.deadline_s if machine.request else m.Limits().deadline_s)
    return (goal_due(machine) - (machine.parked_at or now)).total_seconds()


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
    if event.phase is None or event.phase is machine.phase or _waits_parked(machine, event):
        return machine
    return replace(machine, phase=event.phase, since=at)


def _waits_parked(machine: Machine, event: m.MachineEvent) -> bool:
    """Whether a parked machine is told that there is no room yet: it waits where it is, with its own deadline."""
    return machine.phase is Phase.PARKED and isinstance(event, m.MachineQueued)


def _details(machine: Machine, event: m.MachineEvent, at: datetime) -> Machine:  # noqa: C901, PLR0911 - one case an event
    """What an event changes besides the phase."""
    match event:
        case m.MachineRequested():
            return replace(machine, request=event, requested_at=at)
        case m.MachineAdmitted():
            return _admitted(machine, event, at)
        case m.MachineQueued():
            return replace(machine, held=add(machine.held, Held(event.hold, since=at)))
        case m.MachineHeld():
            return _held(machine, event, at)
        case m.MachineParked():
            return _parked(machine, event, at)
        case m.MachineResumed():
            return replace(machine, held=lift(machine.held, (event.hold,)))
        case m.MachineStopRequested():
            return replace(machine, stop=event.reason if machine.stop is None else machine.stop)
        case m.MachineRestoreRequested():
            return _restore_asked(machine, event)
        case m.MachineProgressed():
            return _progressed(machine, event, at)
        case m.MachineCheckpointingStarted():
            return replace(machine, safety_id=event.checkpoint_id)
        case m.MachineDrainingStarted() | m.MachineEndingStarted() | m.MachineSealingStarted() | m.MachineEnded():
            ended = replace(machine, ending=_ending(machine, event))
            return replace(ended, parks_for=reason_to_park(machine)) if event.outcome is None else ended
        case _:
            return _incarnation(machine, event, at)


def reason_to_park(machine: Machine) -> Held | None:
    """What the machine is to park for: what its incarnation ran into, else the first of its holds."""
    return machine.parks_for or (machine.held[0] if machine.held else None)


def _admitted(machine: Machine, event: m.MachineAdmitted, at: datetime) -> Machine:
    """The budgets have room: what they held it for is gone, what others hold it for is not."""
    held = lift(machine.held, (Hold.BUDGET, Hold.CAPACITY))
    since = machine.since if machine.phase is not None and machine.epoch else at
    return replace(machine, reservation_id=event.reservation_id, since=since, held=held)


def _held(machine: Machine, event: m.MachineHeld, at: datetime) -> Machine:
    """A hold on the newest incarnation; one that is over by then is not held again."""
    rests = machine.phase is Phase.PARKED
    if event.epoch != machine.epoch or not (rests or machine.is_live):
        return machine
    held = Held(event.hold, event.reason, event.until, at)
    return replace(
        machine,
        held=add(machine.held, held),
        parks_for=machine.parks_for if rests or machine.parks_for else held,
    )


def _parked(machine: Machine, event: m.MachineParked, at: datetime) -> Machine:
    """Its reservation is spent, unless a new one came while it parked; a hold that went meanwhile is gone."""
    known = machine.parks_for is not None and machine.parks_for.hold is event.hold
    parked = Held(event.hold, event.reason, event.until, at)
    return replace(
        machine,
        held=machine.held if known else add(machine.held, parked),
        reservation_id=None if machine.reservation_id == machine.spent_id else machine.reservation_id,
        parked_at=machine.parked_at or at,
        next_from=event.checkpoint_id,
        attempts=0,
        ending=None,
    )


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
                parked_for=machine.parked_for + (at - machine.parked_at if machine.parked_at else timedelta(0)),
                parked_at=None,
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
        spent_id=machine.reservation_id,
        parks_for=None,
        since=at,
    )


def _metered(machine: Machine, newest: Incarnation, event: m.UsageRecorded) -> Machine:
    if event.epoch == newest.epoch:
        over = machine.phase is not Phase.WORKING  # while it works more is to come
        machine = replace(machine, incarnation=replace(newest, metered=over, metered_until=event.period_end))
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
    exit_code, checkpoint_id = known.exit_code, known.checkpoint_id
    if isinstance(event, m.MachineSealingStarted | m.MachineEnded):
        exit_code, checkpoint_id = event.exit_code, event.checkpoint_id
    network_bytes = event.network_bytes if isinstance(event, m.MachineSealingStarted) else known.network_bytes
    return Ending(event.outcome, event.reason, exit_code, checkpoint_id, network_bytes)


def attempt_of_next_recovery(machine: Machine, at: datetime) -> int:
    """Which attempt a recovery beginning at `at` is; an incarnation that worked for long begins the count anew."""
    newest = machine.incarnation
    if newest and newest.working_at and at - newest.working_at >= timedelta(seconds=STABLE_S):
        return 1
    return machine.attempts + 1
