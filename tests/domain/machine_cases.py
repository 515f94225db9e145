"""Histories of machines for the tests of their decider."""

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from uuid import UUID

from domain.machine_state import Machine, Start, evolve
from events import machine as m
from events.base import Event
from events.words import Hold, MachineType, Outcome, Phase, Resource

T0 = datetime(2026, 3, 1, 12, tzinfo=UTC)
LATER = T0 + timedelta(minutes=3)
ID = UUID(int=1)
BASE = Start(UUID(int=10), "a" * 64)
OLDER = Start(UUID(int=11), "b" * 64)
NEWER = Start(UUID(int=12), "c" * 64)
FINAL = Start(UUID(int=13), "d" * 64)


def given(*events: Event, at: datetime = T0) -> Machine:
    machine = Machine()
    for event in events:
        machine = evolve(machine, event, at)
    return machine


def requested() -> m.MachineRequested:
    return m.MachineRequested(goal="make test", machine_type=MachineType.SHELL)


def admitted() -> m.MachineAdmitted:
    return m.MachineAdmitted(reservation_id=UUID(int=9), held={Resource.MONEY: Decimal(1)})


def provisioned(epoch: int, start: Start = BASE) -> m.MachineProvisioningStarted:
    return m.MachineProvisioningStarted(
        epoch=epoch,
        hypervisor="local",
        node="here",
        from_checkpoint_id=start.checkpoint_id,
        snapshot=start.snapshot,
        on_trunk=True,
    )


def booted(epoch: int) -> m.MachineBooted:
    return m.MachineBooted(epoch=epoch, vm_id=f"vm-{epoch}")


def working(epoch: int) -> list[m.MachineEvent]:
    """All that is recorded of a machine up to the work of its incarnation `epoch`."""
    incarnation = [
        provisioned(epoch),
        booted(epoch),
        m.MachineBecameReady(epoch=epoch),
        m.MachineWorkStarted(epoch=epoch),
    ]
    return [requested(), admitted(), *incarnation]


_LAST: dict[Phase, m.MachineEvent] = {
    Phase.QUEUED: m.MachineQueued(hold=Hold.BUDGET, node="webshop"),
    Phase.CHECKPOINTING: m.MachineCheckpointingStarted(epoch=1, checkpoint_id=UUID(int=99)),
    Phase.DRAINING: m.MachineDrainingStarted(epoch=1, outcome=Outcome.CANCELLED, reason="x"),
    Phase.SEALING: m.MachineSealingStarted(epoch=1, outcome=Outcome.SUCCEEDED, checkpoint_id=FINAL.checkpoint_id),
    Phase.PARKED: m.MachineParked(epoch=1, hold=Hold.USER),
    Phase.UNREACHABLE: m.MachineContactLost(epoch=1),
    Phase.RECOVERING: m.MachineRecoveryStarted(epoch=1, attempt=1, reason="x"),
    Phase.QUARANTINED: m.MachineQuarantined(epoch=1, reason="x"),
    Phase.ENDING: m.MachineEndingStarted(epoch=1, outcome=Outcome.FAILED),
    Phase.ENDED: m.MachineEnded(epoch=1, outcome=Outcome.FAILED),
}


def at_phase(phase: Phase) -> Machine:
    """A machine in `phase`, by the shortest history that leads there."""
    whole = working(1)
    cut = {Phase.REQUESTED: 1, Phase.QUEUED: 1, Phase.PROVISIONING: 3, Phase.STARTING: 4, Phase.READY: 5}.get(phase, 6)
    last = _LAST.get(phase)
    return given(*whole[:cut], *([last] if last else []))
