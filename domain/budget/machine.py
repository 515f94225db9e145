"""A machine as the budget sees it: what was asked, how that was answered, what it used."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from decimal import Decimal
from enum import StrEnum
from uuid import UUID

from domain.budget.account import ZERO
from domain.tariff import Tariff, worst_case
from events.base import Event
from events.budget import BUDGETED
from events.machine import (
    MachineAdmitted,
    MachineDenied,
    MachineEnded,
    MachineHeld,
    MachineParked,
    MachineProvisioningStarted,
    MachineQueued,
    MachineRequested,
    MachineResumed,
    MachineStopRequested,
    UsageRecorded,
)
from events.words import Hold, Resource, Unit

_MINUTES_PER_HOUR = 60


class Standing(StrEnum):
    """How far the budget's answer to a request is."""

    UNKNOWN = "unknown"
    REQUESTED = "requested"
    QUEUED = "queued"
    ADMITTED = "admitted"
    PARKED = "parked"
    OVER = "over"


def _usage() -> Mapping[BUDGETED, Decimal]:
    return {}


@dataclass(frozen=True, slots=True)
class Machine:
    """What of a machine's history matters to its budget."""

    standing: Standing = Standing.UNKNOWN
    request: MachineRequested | None = None
    stop_requested: bool = False
    queued: MachineQueued | None = None
    """What stood in its way when it was last tried."""
    reservation_id: UUID | None = None
    """Of the last admission, resolved or not."""
    admissions: int = 0
    epoch: int = 0
    holds: frozenset[Hold] = frozenset()
    usage: Mapping[BUDGETED, Decimal] = field(default_factory=_usage)
    """What running it has used since the last admission; its model calls are folded by `domain.budget.calls`."""
    used_before: Mapping[BUDGETED, Decimal] = field(default_factory=_usage)
    """What running it had used before."""


def evolve(machine: Machine, event: Event) -> Machine:  # noqa: C901, PLR0911 - one return per event
    """Fold one event of the machine's history; most leave it as it is."""
    match event:
        case MachineRequested() if machine.request is None:
            return replace(machine, standing=Standing.REQUESTED, request=event)
        case MachineStopRequested():
            return replace(machine, stop_requested=True)
        case MachineQueued():
            return replace(machine, standing=Standing.QUEUED, queued=event)
        case MachineAdmitted():
            return _admitted(machine, event)
        case MachineProvisioningStarted():
            return replace(machine, epoch=event.epoch, holds=frozenset())
        case MachineHeld() if event.epoch >= machine.epoch:
            return replace(machine, holds=machine.holds | {event.hold})
        case MachineParked() if machine.standing is not Standing.OVER:
            return replace(machine, standing=Standing.PARKED, holds=machine.holds | {event.hold})
        case MachineResumed():
            return replace(machine, holds=machine.holds - {event.hold})
        case MachineDenied() | MachineEnded():
            return replace(machine, standing=Standing.OVER)
        case UsageRecorded():
            return replace(machine, usage=_added(machine.usage, event))
        case _:
            return machine


def _admitted(machine: Machine, event: MachineAdmitted) -> Machine:
    used: dict[BUDGETED, Decimal] = dict(machine.used_before)
    for resource, amount in machine.usage.items():
        used[resource] = used.get(resource, ZERO) + amount
    return replace(
        machine,
        standing=Standing.ADMITTED,
        reservation_id=event.reservation_id,
        admissions=machine.admissions + 1,
        holds=machine.holds - {Hold.BUDGET, Hold.CAPACITY},
        usage={},
        used_before=used,
    )


def asks(request: MachineRequested, tariff: Tariff) -> dict[BUDGETED, Decimal]:
    """Return what must be set aside for a request: money in CAD, time in minutes, and calls where it says how many."""
    worst = worst_case(request.limits, tariff)
    asked: dict[BUDGETED, Decimal] = {
        Resource.MONEY: worst.cad if request.budget is None else request.budget,
        Resource.TIME: worst.minutes,
    }
    if request.calls is not None:
        asked[Resource.API_CALLS] = request.calls
    return asked


def asks_of_host(request: MachineRequested, tariff: Tariff) -> dict[BUDGETED, Decimal]:
    """Return what a machine takes of its host at most, in core hours and GiB hours; set aside where that is capped."""
    worst = worst_case(request.limits, tariff)
    return {
        Resource.CPU: worst.cpu_hours,
        Resource.MEMORY: worst.gb_hours,
        Resource.STORAGE: worst.storage_gb_hours,
    }


def _added(usage: Mapping[BUDGETED, Decimal], event: UsageRecorded) -> Mapping[BUDGETED, Decimal]:
    added: dict[BUDGETED, Decimal] = dict(usage)
    added[Resource.MONEY] = usage.get(Resource.MONEY, ZERO) + event.cost_cad
    match event.resource_type:
        case Resource.TIME:
            minutes = event.amount * (_MINUTES_PER_HOUR if event.unit is Unit.HOURS else 1)
            added[Resource.TIME] = usage.get(Resource.TIME, ZERO) + minutes
        case Resource.MONEY:
            pass
        case resource:
            added[resource] = usage.get(resource, ZERO) + event.amount
    return added
