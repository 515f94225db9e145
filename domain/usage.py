"""What an incarnation used of the host, as the events that are settled against its reservation."""

from datetime import datetime, timedelta
from decimal import Decimal

from domain.machine_state import VM_RUNTIME, Machine
from domain.tariff import Tariff, price
from events.machine import Limits, UsageRecorded
from events.words import Resource, Unit


def usage_of(machine: Machine, until: datetime, tariff: Tariff) -> tuple[UsageRecorded, ...]:
    """Return what the machine's newest incarnation used from its boot to `until`; nothing if it never booted.

    Charged is what was set aside (the limits), for as long as it ran, never longer than the machine's deadline over
    all its incarnations: what the hub itself takes to seal and clean up costs nobody anything.
    """
    newest = machine.incarnation
    if newest is None or newest.booted_at is None or newest.metered:
        return ()
    limits = machine.request.limits if machine.request else Limits()
    left = timedelta(seconds=limits.deadline_s) - timedelta(seconds=float(machine.metered_s))
    ran = max(timedelta(0), min(until - newest.booted_at, left))
    seconds = Decimal(ran // timedelta(microseconds=1)) / 1_000_000
    bill = price(limits, seconds, tariff)
    lines = (
        (Resource.TIME, Unit.MINUTES, bill.minutes, Decimal(0)),
        (Resource.CPU, Unit.CPU_HOURS, bill.cpu_hours, bill.cpu_cad),
        (Resource.MEMORY, Unit.GB_HOURS, bill.gb_hours, bill.memory_cad),
    )
    return tuple(
        UsageRecorded(
            epoch=newest.epoch,
            resource_type=resource,
            resource_subtype=VM_RUNTIME,
            amount=amount,
            unit=unit,
            cost_cad=cost,
            period_start=newest.booted_at,
            period_end=newest.booted_at + ran,
        )
        for resource, unit, amount, cost in lines
    )
