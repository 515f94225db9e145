"""What a machine costs by the hour: one price for what is set aside for it and for what it used.

Charged is what is set aside (cores, memory and disk by its limits) for as long as it runs, as a cloud charges a VM: nobody
else can have it meanwhile. What was really used is told beside it.

Quantities have 9 places. A hold is rounded up and use is rounded down, so the parts of a span that lies inside the
limits never cost more together than was held for them, however many incarnations it was cut into.
"""

from dataclasses import dataclass
from decimal import ROUND_CEILING, ROUND_FLOOR, Context, Decimal

from events.machine import Limits

PLACE = Decimal("1e-9")
AMOUNT_MAX = Decimal("99999999999.999999999")
"""The largest `Amount`, NUMERIC(20,9)."""
CAD_PER_HOUR_MAX = 10_000
"""The dearest a core or a GiB may be: the largest machine for the longest time then costs 31 of 100 billion CAD."""
CAD_PER_STORAGE_HOUR_MAX = 1_000
"""The dearest a GiB of disk may be: that is 47 of 100 billion CAD."""
_EXACT = Context(prec=60)
_SECONDS_PER_HOUR = Decimal(3_600)


@dataclass(frozen=True, slots=True)
class Tariff:
    """CAD per hour of what is set aside. The defaults are about twice what a small cloud machine costs."""

    vcpu_hour_cad: Decimal = Decimal("0.05")
    gib_hour_cad: Decimal = Decimal("0.01")
    """Of memory."""
    storage_gib_hour_cad: Decimal = Decimal(0)
    """Of disk; metered in any case, and free unless somebody sets a price: a GiB costs a cloud 0.0002 CAD an hour."""


@dataclass(frozen=True, slots=True)
class Bill:
    """What a span of running within limits comes to, by resource."""

    minutes: Decimal
    cpu_hours: Decimal
    cpu_cad: Decimal
    gb_hours: Decimal
    """GiB of memory times hours."""
    memory_cad: Decimal
    storage_gb_hours: Decimal
    """GiB of disk times hours."""
    storage_cad: Decimal

    @property
    def cad(self) -> Decimal:
        return self.cpu_cad + self.memory_cad + self.storage_cad


def price(limits: Limits, seconds: Decimal, tariff: Tariff) -> Bill:
    """Return what `seconds` of a machine with these limits come to, rounded down."""
    return _bill(limits, max(Decimal(0), seconds), tariff, ROUND_FLOOR)


def worst_case(limits: Limits, tariff: Tariff) -> Bill:
    """Return what the machine comes to when it takes its whole deadline, rounded up."""
    return _bill(limits, Decimal(limits.deadline_s), tariff, ROUND_CEILING)


def _bill(limits: Limits, seconds: Decimal, tariff: Tariff, rounding: str) -> Bill:
    def rounded(numerator: Decimal, denominator: Decimal) -> Decimal:
        return _EXACT.divide(numerator, denominator).quantize(PLACE, rounding=rounding)

    cpu = _EXACT.multiply(Decimal(limits.cpu_milli), seconds)
    memory = _EXACT.multiply(Decimal(limits.memory_mib), seconds)
    storage = _EXACT.multiply(Decimal(limits.disk_mib), seconds)
    cpu_share, memory_share = 1_000 * _SECONDS_PER_HOUR, 1_024 * _SECONDS_PER_HOUR
    return Bill(
        minutes=rounded(seconds, Decimal(60)),
        cpu_hours=rounded(cpu, cpu_share),
        cpu_cad=rounded(_EXACT.multiply(cpu, tariff.vcpu_hour_cad), cpu_share),
        gb_hours=rounded(memory, memory_share),
        memory_cad=rounded(_EXACT.multiply(memory, tariff.gib_hour_cad), memory_share),
        storage_gb_hours=rounded(storage, memory_share),
        storage_cad=rounded(_EXACT.multiply(storage, tariff.storage_gib_hour_cad), memory_share),
    )
