"""What happens to a budget account. One aggregate per node (`_hub`, a project's slug, a machine's id) holds all its resources.

Two-phase: reserve the worst case before, settle with the actual after; each reservation is resolved exactly once.
"""

from decimal import Decimal
from typing import Annotated, ClassVar

from pydantic import Field

from events.base import Amount, Event, Id, Name, Text, Time, Value
from events.words import BudgetPeriod, CarryOver, OnExhausted, Resource, Said, Unit

BUDGETED = Resource
"""What can be budgeted."""

UNIT_OF: dict[Resource, Unit] = {
    Resource.MONEY: Unit.CAD,
    Resource.TIME: Unit.MINUTES,
    Resource.API_CALLS: Unit.CALLS,
    Resource.TOKENS: Unit.TOKENS,
    Resource.CPU: Unit.CPU_HOURS,
    Resource.MEMORY: Unit.GB_HOURS,
    Resource.STORAGE: Unit.GB_HOURS,
    Resource.NETWORK: Unit.GB,
}
THRESHOLDS_PERCENT = (50, 80, 95, 100)
Thresholds = Annotated[tuple[Annotated[int, Field(ge=1, le=100)], ...], Field(max_length=16)]


class BudgetEvent(Event):
    """The base of what happens to a budget account."""

    aggregate: ClassVar[str] = "budget"


class Line(Value):
    """An amount of one resource, in the unit of `UNIT_OF`, counted in the period that began at `period_start`."""

    resource: BUDGETED
    amount: Amount
    period: BudgetPeriod
    period_start: Time


Lines = Annotated[tuple[Line, ...], Field(min_length=1, max_length=64)]


class BudgetRequested(BudgetEvent):
    """Somebody sets what an account may use of one resource per period.

    Said at the door; answered by BudgetAllocated or BudgetRefused.

    An account without an allocation of a resource has no cap of its own; an allocation of 0 is a cap.
    """

    said_by: ClassVar[tuple[Said, ...]] = (Said.DOOR,)

    resource: BUDGETED = Resource.MONEY
    amount: Amount
    unit: Unit
    period: BudgetPeriod = BudgetPeriod.TOTAL
    time_zone: Annotated[str, Field(min_length=1, max_length=64)] = "UTC"
    """Named zone in which days, weeks and months begin."""
    auto_reset: bool = True
    soft: Amount | None = None
    """Beyond it a warning is said and nothing is refused."""
    thresholds: Thresholds = THRESHOLDS_PERCENT
    """Percentages of `amount` at which a warning is said, once per period."""
    carry: CarryOver = CarryOver.NONE
    on_exhausted: OnExhausted = OnExhausted.PARK


class BudgetTopUpRequested(BudgetEvent):
    """Somebody adds to what an account may use in the present period. Said at the door; answered as BudgetRequested is.

    An account without an allocation of the resource in that period has nothing to add to and is refused.
    """

    said_by: ClassVar[tuple[Said, ...]] = (Said.DOOR,)

    resource: BUDGETED = Resource.MONEY
    amount: Amount
    unit: Unit
    period: BudgetPeriod = BudgetPeriod.TOTAL


class BudgetRefused(BudgetEvent):
    """A BudgetRequested made no sense (unit, zone). Said by budget."""

    said_by: ClassVar[tuple[Said, ...]] = (Said.BUDGET,)

    resource: Resource
    reason: Text


class BudgetAllocated(BudgetEvent):
    """An account may use `amount` in the period; a later one for the same period replaces it, a new period is a new row.

    Said by budget.
    """

    said_by: ClassVar[tuple[Said, ...]] = (Said.BUDGET,)

    resource: BUDGETED
    amount: Amount
    unit: Unit
    period: BudgetPeriod
    period_start: Time
    period_end: Time | None = None
    """None for a total."""
    time_zone: Name = "UTC"
    auto_reset: bool = True
    soft: Amount | None = None
    thresholds: Thresholds = THRESHOLDS_PERCENT
    carry: CarryOver = CarryOver.NONE
    on_exhausted: OnExhausted = OnExhausted.PARK
    base_amount: Amount | None = None
    """What every period is given; None: `amount`. They differ by what was carried over or added for this period."""
    owed: Amount = Decimal(0)
    """With `carry` debt: what earlier periods used beyond their amounts and this one's could not make up for either."""


class BudgetReserved(BudgetEvent):
    """The worst case of a machine is set aside on this account. Said by budget, one batch over all accounts and the machine."""

    said_by: ClassVar[tuple[Said, ...]] = (Said.BUDGET,)

    reservation_id: Id
    machine_id: Id
    lines: Lines


class ReservationRefused(BudgetEvent):
    """An account could not hold what was asked. Said by budget."""

    said_by: ClassVar[tuple[Said, ...]] = (Said.BUDGET,)

    reservation_id: Id
    machine_id: Id
    resource: BUDGETED
    unit: Unit
    asked: Amount
    available: Amount


class BudgetSettled(BudgetEvent):
    """A reservation is resolved with what was really used: the hold is gone, `lines` are added to used. Said by budget."""

    said_by: ClassVar[tuple[Said, ...]] = (Said.BUDGET,)

    reservation_id: Id
    machine_id: Id
    lines: Lines


class BudgetExtended(BudgetEvent):
    """More is set aside for a machine under the reservation that it has. Said by budget, one batch over all accounts."""

    said_by: ClassVar[tuple[Said, ...]] = (Said.BUDGET,)

    reservation_id: Id
    machine_id: Id
    lines: Lines


class BudgetDrawn(BudgetEvent):
    """A part of a reservation has been used: it is no longer reserved but used, while the rest stays reserved.

    Said by budget, one batch over all accounts of the path; a machine's settled calls are drawn together.
    """

    said_by: ClassVar[tuple[Said, ...]] = (Said.BUDGET,)

    reservation_id: Id
    machine_id: Id
    lines: Lines


class BudgetExceeded(BudgetEvent):
    """More was used than was set aside: a bound was wrong, which is a defect, or a call was elastic. Said by budget."""

    said_by: ClassVar[tuple[Said, ...]] = (Said.BUDGET,)

    machine_id: Id
    call_id: Id | None = None
    resource: BUDGETED
    amount: Amount
    """By how much."""


class SharesRebalanced(BudgetEvent):
    """How the hub's allocation is shared by greediness, among the projects that want some. Said by budget, on the hub's account.

    Only said when a share moved by more than 1 % of the allocation.
    """

    said_by: ClassVar[tuple[Said, ...]] = (Said.BUDGET,)

    resource: BUDGETED
    period: BudgetPeriod
    period_start: Time
    allocated: Amount
    shares: Annotated[dict[Name, Amount], Field(max_length=1_000)]
    """By project's slug."""


class BudgetReleased(BudgetEvent):
    """A reservation is resolved with nothing used. Said by budget."""

    said_by: ClassVar[tuple[Said, ...]] = (Said.BUDGET,)

    reservation_id: Id
    machine_id: Id
    reason: Text = ""


class BudgetThresholdCrossed(BudgetEvent):
    """Use has reached `percent` of the allocation, once per period and threshold. Said by budget."""

    said_by: ClassVar[tuple[Said, ...]] = (Said.BUDGET,)

    resource: BUDGETED
    period: BudgetPeriod
    period_start: Time
    percent: Annotated[int, Field(ge=1, le=100)]
    used: Amount
    allocated: Amount
    soft: Amount | None = None
    """It is the soft limit that was reached, and this is what it is; `percent` says where it lies."""


class BudgetExhausted(BudgetEvent):
    """Use has reached the whole allocation, once per period. Said by budget."""

    said_by: ClassVar[tuple[Said, ...]] = (Said.BUDGET,)

    resource: BUDGETED
    period: BudgetPeriod
    period_start: Time
    used: Amount
    allocated: Amount
