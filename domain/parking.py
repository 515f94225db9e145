"""How a machine comes to rest and goes on: what the spawner says about its holds. State: `domain.machine_state`.

Decided on the hold, never on the exit code: what a runner does whose model call was refused says nothing of its goal.
"""

from datetime import datetime
from uuid import UUID

from domain import machine_commands as c
from domain.machine_state import Machine, reason_to_park, releases
from events import machine as m
from events.words import Hold, Outcome, Phase

_AT_WORK = frozenset({Phase.READY, Phase.WORKING})
REASON_CHARS_MAX = 4_096


def drain(machine: Machine) -> list[m.MachineEvent]:
    """Have a held machine stop its work; one that is busy with something else parks when that is over."""
    held = reason_to_park(machine)
    if held is None or machine.phase not in _AT_WORK or machine.stop is not None:
        return []
    return [m.MachineDrainingStarted(epoch=machine.epoch, outcome=None, reason=held.reason or f"held: {held.hold}")]


def parks_instead(outcome: Outcome | None, machine: Machine) -> bool:
    """Whether an incarnation that is over so has not ended its machine: it was held, and its goal is not done."""
    if machine.stop is not None or reason_to_park(machine) is None:
        return False
    return outcome is None or (outcome is Outcome.FAILED and machine.parks_for is not None)


def seal(machine: Machine, finished: c.Finished) -> m.MachineSealingStarted:
    """The runner is over; unless something holds the machine, that is how it ends."""
    outcome = finished.outcome
    if parks_instead(outcome, machine):
        held = reason_to_park(machine)
        reason = (held.reason if held else "") or finished.reason
        return _sealing(machine, None, reason, finished)
    if outcome is None:
        cancelled = machine.stop is not None
        outcome = Outcome.CANCELLED if cancelled else Outcome.FAILED
        why = machine.stop or ("stop requested" if cancelled else "its agent parked and nothing holds it")
        return _sealing(machine, outcome, why, finished)
    return _sealing(machine, outcome, finished.reason, finished)


def lost(machine: Machine, reason: str) -> list[m.MachineEvent]:
    """A held machine whose incarnation is gone parks on its last good checkpoint; that is no recovery."""
    held = reason_to_park(machine)
    if held is None or machine.stop is not None:
        return []
    text = f"{held.reason or held.hold}; its incarnation was gone before it had parked: {reason}"
    return [_sealing(machine, None, text)]


def stop(machine: Machine, reason: str) -> list[m.MachineEvent]:
    """On its way to rest the end is asked for: the same way leads to the end."""
    ending = machine.ending
    if not machine.is_parking or ending is None:
        return []
    if machine.phase is Phase.DRAINING:
        return [m.MachineDrainingStarted(epoch=machine.epoch, outcome=Outcome.CANCELLED, reason=reason)]
    sealed = c.Finished(
        machine.epoch, None, ending.exit_code, checkpoint_id=ending.checkpoint_id, network_bytes=ending.network_bytes
    )
    return [_sealing(machine, Outcome.CANCELLED, reason, sealed)]


def park(machine: Machine, usage: tuple[m.UsageRecorded, ...], last_good: UUID | None) -> list[m.MachineEvent]:
    """Nothing of it runs any more: it rests on its last good checkpoint."""
    held = reason_to_park(machine)
    reason = machine.ending.reason if machine.ending else ""
    parked = m.MachineParked(
        epoch=machine.epoch,
        hold=held.hold if held else Hold.USER,
        checkpoint_id=last_good,
        reason=reason or (held.reason if held else ""),
        until=held.until if held else None,
    )
    return [*usage, parked]


def release(machine: Machine, now: datetime) -> list[m.MachineEvent]:
    """Lift the holds whose time has passed."""
    return [m.MachineResumed(hold=hold) for hold, at in releases(machine) if at <= now]


def _sealing(
    machine: Machine, outcome: Outcome | None, reason: str, finished: c.Finished | None = None
) -> m.MachineSealingStarted:
    return m.MachineSealingStarted(
        epoch=machine.epoch,
        outcome=outcome,
        exit_code=finished.exit_code if finished else None,
        reason=reason[:REASON_CHARS_MAX],
        checkpoint_id=finished.checkpoint_id if finished else None,
        network_bytes=finished.network_bytes if finished else 0,
    )
