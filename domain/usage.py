"""What an incarnation used of the host, as the events that are settled against its reservation."""

from datetime import datetime, timedelta
from decimal import Decimal

from domain.machine_state import VM_RUNTIME, Machine
from domain.tariff import Tariff, price
from events.budget import BUDGETED
from events.machine import Limits, UsageRecorded
from events.words import Phase, Resource, Unit

BYTES_A_GB = 1_000_000_000


def usage_of(machine: Machine, until: datetime, tariff: Tariff) -> tuple[UsageRecorded, ...]:
    """Return what the machine's newest incarnation used from its boot, or the last that is recorded, to `until`.

    Nothing if it never booted. Each span begins where the one before it ended, so no moment counts twice or not at all.

    Charged is what was set aside (the limits), for as long as it ran, never longer than the machine's deadline over
    all its incarnations: what the hub itself takes to seal and clean up costs nobody anything.
    """
    newest = machine.incarnation
    if newest is None or newest.metered_from is None or newest.metered:
        return ()
    began = newest.metered_from
    limits = machine.request.limits if machine.request else Limits()
    left = timedelta(seconds=limits.deadline_s) - timedelta(seconds=float(machine.metered_s))
    ran = max(timedelta(0), min(until - began, left))
    seconds = Decimal(ran // timedelta(microseconds=1)) / 1_000_000
    bill = price(limits, seconds, tariff)
    lines = (
        (Resource.TIME, Unit.MINUTES, bill.minutes, Decimal(0)),
        (Resource.CPU, Unit.CPU_HOURS, bill.cpu_hours, bill.cpu_cad),
        (Resource.MEMORY, Unit.GB_HOURS, bill.gb_hours, bill.memory_cad),
        (Resource.STORAGE, Unit.GB_HOURS, bill.storage_gb_hours, bill.storage_cad),
        *_network(machine),
    )
    return tuple(
        UsageRecorded(
            epoch=newest.epoch,
            resource_type=resource,
            resource_subtype=VM_RUNTIME,
            amount=amount,
            unit=unit,
            cost_cad=cost,
            period_start=began,
            period_end=began + ran,
        )
        for resource, unit, amount, cost in lines
    )


def _network(machine: Machine) -> tuple[tuple[BUDGETED, Unit, Decimal, Decimal], ...]:
    """What an incarnation carried that has told how it ended; it costs nothing: it leads to the hub's own gateway only."""
    carried = machine.ending.network_bytes if machine.ending else 0
    return ((Resource.NETWORK, Unit.GB, Decimal(carried) / BYTES_A_GB, Decimal(0)),) if carried else ()


def is_usage_due(machine: Machine, now: datetime, every_s: float) -> bool:
    """Return whether a machine at work has run for so long since its use was last recorded."""
    newest = machine.incarnation
    if machine.phase is not Phase.WORKING or newest is None or newest.metered_from is None:
        return False
    return now - newest.metered_from >= timedelta(seconds=every_s)
