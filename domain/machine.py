"""What happens to a machine: commands, and what the spawner says in answer. State and fold: `domain.machine_state`.

Nothing here is refused with an error: a command that no longer fits (late, repeated, of a fenced epoch, after the
end) is answered by no events. The one who carries effects out asks `wants` what the machine's state asks of the host.
"""

from datetime import timedelta
from enum import Enum, auto
from typing import assert_never
from uuid import UUID

from domain import machine_commands as c
from domain import parking
from domain.machine_state import (
    RESTORE_REFUSED,
    Ending,
    Machine,
    Start,
    attempt_of_next_recovery,
    due,
    goal_left_s,
)
from domain.phases import BEFORE_ADMISSION, DEADLINES, QUEUE_S, RECOVERIES_MAX
from events import machine as m
from events.ids import derived
from events.project import ProjectAdvanced
from events.words import Outcome, Phase

PROGRESS_EVERY = timedelta(seconds=1)
_RUNNING = frozenset({Phase.READY, Phase.WORKING, Phase.CHECKPOINTING, Phase.UNREACHABLE})
_STARTING = frozenset({Phase.PROVISIONING, Phase.STARTING})
_FINISHABLE = _RUNNING | _STARTING | {Phase.DRAINING}


class Want(Enum):
    """What a machine's state asks of the host and of the log, again and again until the state is another."""

    NOTHING = auto()
    PROVISION = auto()
    """Fence the last incarnation, if there was one, then say MachineProvisioningStarted for the next epoch."""
    SPAWN = auto()
    """Have the incarnation of this epoch on the host, then say MachineBooted."""
    CAPTURE = auto()
    """Tell the agent to take the safety checkpoint."""
    STOP_AGENT = auto()
    """Tell the agent to stop the runner and seal."""
    TAKE_DOWN = auto()
    """Destroy the incarnation, revoke its credential, then say the end, or that it is parked."""


def wants(machine: Machine, *, settled: bool, gone: bool = False, late: bool = False) -> Want:  # noqa: PLR0911 - one case a phase
    """Return what is to be done for the machine now.

    Args:
        settled: The checkpoint it waits for (safety, final) is taken or has failed. True when it waits for none.
        gone: Its incarnation is not on the host any more.
        late: It parks and has waited for its checkpoint long enough.
    """
    match machine.phase:
        case Phase.REQUESTED | Phase.QUEUED:
            return Want.PROVISION if machine.is_admitted and machine.stop is None else Want.NOTHING
        case Phase.RECOVERING:
            return Want.PROVISION
        case Phase.PARKED:
            free = machine.is_admitted and not machine.held and machine.stop is None
            return Want.PROVISION if free else Want.NOTHING
        case Phase.CHECKPOINTING if machine.restore is not None:
            return Want.PROVISION if settled else Want.CAPTURE
        case Phase.PROVISIONING:
            return Want.SPAWN
        case Phase.DRAINING:
            return Want.STOP_AGENT
        case Phase.ENDING:
            return Want.TAKE_DOWN
        case Phase.SEALING:
            captured = machine.ending is not None and machine.ending.checkpoint_id is not None
            return Want.TAKE_DOWN if late or (settled if captured else gone) else Want.NOTHING
        case _:
            return Want.NOTHING


def awaited(machine: Machine) -> UUID | None:
    """The checkpoint that must be taken, or have failed, before the machine goes on."""
    match machine.phase:
        case Phase.CHECKPOINTING:
            return machine.safety_id
        case Phase.SEALING:
            return machine.ending.checkpoint_id if machine.ending else None
        case _:
            return None


def safety_id(machine_id: UUID, epoch: int, target: UUID) -> UUID:
    """The id of the checkpoint taken before this restore: asked twice, it is one checkpoint."""
    return derived("safety", str(machine_id), str(epoch), str(target))


def decide(command: c.Command, machine: Machine) -> list[m.MachineEvent]:  # noqa: C901, PLR0911, PLR0912 - one case a command
    """Return what happens to the machine because of `command`; nothing when it no longer fits."""
    if machine.phase is None or machine.is_ended:
        return []
    match command:
        case c.Provision():
            return _provision(command, machine)
        case c.Refuse(reason=reason):
            return _refuse(machine, reason)
        case c.Booted() | c.Restored() | c.Progressed() | c.Finished() | c.BeatSeen() | c.BeatsMissed():
            return _from_incarnation(command, machine) if machine.hears(command.epoch) else []
        case c.Lost(epoch=epoch):
            return _lost(command, machine) if machine.hears(epoch) else []
        case c.Stop():
            return _stop(machine)
        case c.Park():
            return parking.drain(machine)
        case c.Restore():
            return _restore(command, machine)
        case c.CheckpointSettled():
            return _settled(command, machine)
        case c.DeadlinePassed():
            return _deadline(command, machine)
        case c.Destroyed():
            return _destroyed(command, machine)
        case c.Meter(epoch=epoch):
            at_work = machine.phase is Phase.WORKING and epoch == machine.epoch
            return [*_unmetered(machine, command.usage)] if at_work else []
        case _:
            assert_never(command)


def advance(machine: Machine, machine_id: UUID, current: UUID | None, *, taken: bool) -> list[ProjectAdvanced]:
    """Return how the machine's success moves the project's trunk on; `current` is where the trunk stands.

    Only forward: when another machine moved the trunk meanwhile, this one's result stays a branch, so nobody's work
    disappears from under the next goal.
    """
    ending = machine.ending
    succeeded = ending is not None and ending.outcome is Outcome.SUCCEEDED
    if not (machine.on_trunk and succeeded and taken and ending and ending.checkpoint_id and machine.base):
        return []
    if current != machine.base.checkpoint_id:
        return []
    return [ProjectAdvanced(checkpoint_id=ending.checkpoint_id, machine_id=machine_id)]


def _provision(command: c.Provision, machine: Machine) -> list[m.MachineEvent]:
    """The next epoch; never beside one that is not fenced."""
    wanted = wants(machine, settled=command.settled)
    if wanted is not Want.PROVISION or command.fenced != machine.epoch:
        return []
    if machine.stop is not None:
        return _stop(machine)
    started = m.MachineProvisioningStarted(
        epoch=machine.epoch + 1,
        hypervisor=command.hypervisor,
        node=command.node,
        from_checkpoint_id=command.start.checkpoint_id,
        snapshot=command.start.snapshot,
        on_trunk=machine.on_trunk if machine.incarnation else command.on_trunk,
    )
    return [*_unmetered(machine, command.usage), started]


def _refuse(machine: Machine, reason: str) -> list[m.MachineEvent]:
    """It can never be made: no host for its type, no snapshot, a spec beyond the host."""
    if machine.epoch == 0:
        return [m.MachineEnded(outcome=Outcome.FAILED, reason=reason)]
    if machine.phase in {Phase.ENDING, Phase.SEALING}:
        return []
    return [m.MachineEndingStarted(epoch=machine.epoch, outcome=Outcome.FAILED, reason=reason)]


def _from_incarnation(  # noqa: PLR0911 - one case a command
    command: c.Booted | c.Restored | c.Progressed | c.Finished | c.BeatSeen | c.BeatsMissed, machine: Machine
) -> list[m.MachineEvent]:
    """What the live incarnation says or leaves unsaid."""
    phase, epoch = machine.phase, command.epoch
    contact: list[m.MachineEvent] = [m.MachineWorkStarted(epoch=epoch)] if phase is Phase.UNREACHABLE else []
    match command:
        case c.Booted() if phase is Phase.PROVISIONING:
            return [m.MachineBooted(epoch=epoch, vm_id=command.vm_id, enforcement=command.enforcement)]
        case c.Restored() if phase in _STARTING:
            return [
                m.MachineBecameReady(epoch=epoch, restore_ms=command.restore_ms),
                m.MachineWorkStarted(epoch=epoch),
            ]
        case c.Progressed() if phase in _RUNNING and command.now - machine.progressed_at >= PROGRESS_EVERY:
            said = m.MachineProgressed(epoch=epoch, message=command.message, percent=command.percent)
            return [*contact, said]
        case c.Finished() if has_further_back_to_go(command, machine):
            return []
        case c.Finished() if phase in _FINISHABLE or _brings_a_checkpoint(command, machine):
            return [parking.seal(machine, command)]
        case c.BeatSeen():
            return contact
        case c.BeatsMissed() if phase in {Phase.READY, Phase.WORKING}:
            return [m.MachineContactLost(epoch=epoch, last_beat_at=command.last_beat_at)]
        case _:
            return []


def has_further_back_to_go(command: c.Finished, machine: Machine) -> bool:
    """Whether the agent could not make a recovery's workspace, which says nothing of the goal: it counts as lost.

    What it was to start from may be corrupt and not found out yet; the next attempt goes further back, at last to the
    base. From there it is the end. A runner that has failed has an exit code.
    """
    newest = machine.incarnation
    unmade = command.outcome is Outcome.FAILED and command.exit_code is None and command.checkpoint_id is None
    return unmade and machine.phase in _STARTING and newest is not None and newest.start != machine.base


def _brings_a_checkpoint(command: c.Finished, machine: Machine) -> bool:
    """Whether an agent that was given up on does finish, with a final checkpoint that is still of use."""
    return machine.phase is Phase.SEALING and awaited(machine) is None and command.checkpoint_id is not None


def _lost(command: c.Lost, machine: Machine) -> list[m.MachineEvent]:  # noqa: PLR0911 - one case a way out
    """The incarnation is gone and never said that it had finished."""
    ending = machine.ending
    if machine.phase is Phase.SEALING:
        return []  # it had finished; what it waits for comes from the checkpointer, or its deadline does
    if parked := parking.lost(machine, command.reason):
        return parked
    if machine.phase is Phase.DRAINING and ending:
        return [
            m.MachineEndingStarted(
                epoch=machine.epoch, outcome=ending.outcome or Outcome.CANCELLED, reason=ending.reason
            )
        ]
    if machine.stop is not None:
        reason = machine.stop or "stop requested"
        return [m.MachineEndingStarted(epoch=machine.epoch, outcome=Outcome.CANCELLED, reason=reason)]
    if machine.work_began_at is not None and goal_left_s(machine, command.now) <= 0:
        return [m.MachineEndingStarted(epoch=machine.epoch, outcome=Outcome.EXPIRED, reason=command.reason)]
    attempt = attempt_of_next_recovery(machine, command.now)
    if attempt > RECOVERIES_MAX:
        reason = f"lost after {RECOVERIES_MAX} recoveries: {command.reason}"
        return [m.MachineEndingStarted(epoch=machine.epoch, outcome=Outcome.LOST, reason=reason[:4_096])]
    return [
        m.MachineRecoveryStarted(
            epoch=machine.epoch,
            attempt=attempt,
            from_checkpoint_id=_recovery_start(command.candidates, machine, attempt),
            reason=command.reason,
        )
    ]


def _recovery_start(candidates: tuple[Start, ...], machine: Machine, attempt: int) -> UUID | None:
    """The newest good checkpoint; from the second attempt on not the content that was just lost with.

    A restore that was under way comes before all.
    """
    if machine.restore is not None and machine.phase is Phase.CHECKPOINTING:
        return machine.restore
    tried = machine.incarnation.start.snapshot if machine.incarnation and attempt > 1 else None
    other = [start for start in candidates if start.snapshot != tried] or list(candidates)
    return other[0].checkpoint_id if other else None


def _stop(machine: Machine) -> list[m.MachineEvent]:
    """The end is accepted in every phase; where the machine is on its way there already it joins."""
    if machine.stop is None:
        return []
    reason = machine.stop or "stop requested"
    if machine.epoch == 0:
        return [m.MachineEnded(outcome=Outcome.CANCELLED, reason=reason)]
    match machine.phase:
        case Phase.DRAINING | Phase.SEALING:
            return parking.stop(machine, reason)
        case Phase.ENDING:
            return []
        case Phase.READY | Phase.WORKING | Phase.CHECKPOINTING:
            return [m.MachineDrainingStarted(epoch=machine.epoch, outcome=Outcome.CANCELLED, reason=reason)]
        case _:
            return [m.MachineEndingStarted(epoch=machine.epoch, outcome=Outcome.CANCELLED, reason=reason)]


def _restore(command: c.Restore, machine: Machine) -> list[m.MachineEvent]:
    """Take the safety checkpoint first; say no to what cannot be done."""
    said: list[m.MachineEvent] = [
        m.MachineProgressed(epoch=machine.epoch or 1, message=text) for text in machine.refusals
    ]
    at_rest = machine.phase is Phase.PARKED
    if machine.restore is None or machine.stop is not None or not (at_rest or machine.phase is Phase.WORKING):
        return said
    if command.impossible:
        message = f"{RESTORE_REFUSED}{command.impossible}"
        return [*said, m.MachineProgressed(epoch=machine.epoch, message=message)]
    if at_rest:
        return said  # its parking checkpoint is the safety copy; the next incarnation starts from what is wanted
    return [*said, m.MachineCheckpointingStarted(epoch=machine.epoch, checkpoint_id=command.safety_id)]


def _settled(command: c.CheckpointSettled, machine: Machine) -> list[m.MachineEvent]:
    """A safety checkpoint that failed means no restore: what cannot be gone back to is not given up."""
    if machine.phase is not Phase.CHECKPOINTING or command.checkpoint_id != machine.safety_id or command.taken:
        return []
    return _back_to_work(machine, f"the safety checkpoint failed: {command.reason}")


def _back_to_work(machine: Machine, why: str) -> list[m.MachineEvent]:
    message = f"{RESTORE_REFUSED}{why}"[:4_096]
    return [m.MachineWorkStarted(epoch=machine.epoch), m.MachineProgressed(epoch=machine.epoch, message=message)]


def _deadline(command: c.DeadlinePassed, machine: Machine) -> list[m.MachineEvent]:  # noqa: C901, PLR0911, PLR0912 - one case a phase
    """The phase has lasted too long, if it has: a timer may come late, early or twice."""
    came = due(machine)
    if came is None or command.now < came or machine.phase is None:
        return []
    epoch, phase = machine.epoch, machine.phase
    why = f"{phase} for longer than {_allowed_s(machine)} s, waiting for {DEADLINES[phase].waits_for}"
    match phase:
        case Phase.REQUESTED | Phase.QUEUED:
            return [m.MachineEnded(outcome=Outcome.EXPIRED, reason=why)]
        case Phase.PROVISIONING | Phase.STARTING | Phase.UNREACHABLE:
            return _lost(c.Lost(epoch, why, command.candidates, command.now), machine)
        case Phase.READY | Phase.WORKING:
            return [m.MachineDrainingStarted(epoch=epoch, outcome=Outcome.EXPIRED, reason=why)]
        case Phase.CHECKPOINTING:
            return _back_to_work(machine, why)
        case Phase.DRAINING:
            ending = machine.ending or Ending(Outcome.CANCELLED)
            return [m.MachineSealingStarted(epoch=epoch, outcome=ending.outcome, reason=ending.reason or why)]
        case Phase.SEALING if machine.is_parking:
            return parking.park(machine, _unmetered(machine, command.usage), command.last_good)
        case Phase.SEALING:
            ending = machine.ending or Ending(Outcome.FAILED)
            return [
                m.MachineEndingStarted(
                    epoch=epoch, outcome=ending.outcome or Outcome.FAILED, reason=ending.reason or why
                )
            ]
        case Phase.RECOVERING:
            return [m.MachineEndingStarted(epoch=epoch, outcome=Outcome.LOST, reason=why)]
        case Phase.PARKED if released := parking.release(machine, command.now):
            return released
        case Phase.PARKED | Phase.QUARANTINED:
            return [m.MachineEndingStarted(epoch=epoch, outcome=Outcome.EXPIRED, reason=why)]
        case Phase.ENDING:
            return _end(machine, command.usage, command.last_good)
        case Phase.ENDED:
            return []
        case _:
            assert_never(phase)


def _allowed_s(machine: Machine) -> int:
    assert machine.phase is not None
    seconds = QUEUE_S if machine.phase in BEFORE_ADMISSION else DEADLINES[machine.phase].seconds
    if seconds is None:
        return machine.request.limits.deadline_s if machine.request else 0
    return seconds


def _destroyed(command: c.Destroyed, machine: Machine) -> list[m.MachineEvent]:
    """Nothing of it runs any more: the end, or its rest, with what it used, in one batch."""
    if command.epoch != machine.epoch or machine.phase not in {Phase.ENDING, Phase.SEALING}:
        return []
    if machine.is_parking:
        return parking.park(machine, _unmetered(machine, command.usage), command.last_good)
    return _end(machine, command.usage, command.last_good)


def _end(machine: Machine, usage: tuple[m.UsageRecorded, ...], last_good: UUID | None) -> list[m.MachineEvent]:
    ending = machine.ending or Ending(Outcome.FAILED, "it ended without an outcome")
    ended = m.MachineEnded(
        epoch=machine.epoch,
        outcome=ending.outcome or Outcome.FAILED,
        exit_code=ending.exit_code,
        reason=ending.reason,
        checkpoint_id=last_good,
    )
    return [*_unmetered(machine, usage), ended]


def _unmetered(machine: Machine, usage: tuple[m.UsageRecorded, ...]) -> tuple[m.UsageRecorded, ...]:
    """Each moment of each incarnation is recorded once: what begins where nothing ends was recorded meanwhile."""
    newest = machine.incarnation
    if newest is None or newest.metered:
        return ()
    return tuple(line for line in usage if newest.metered_until is None or line.period_start == newest.metered_until)


def final_checkpoint(machine: Machine, *, taken: bool, last_good: UUID | None) -> UUID | None:
    """What the end names: the final checkpoint when it was taken, else the last good one."""
    final = machine.ending.checkpoint_id if machine.ending else None
    return final if final is not None and taken else last_good
