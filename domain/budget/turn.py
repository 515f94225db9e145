"""The turn of a period: what the next one begins with. The old book stays as it is.

Nothing is opened for periods in which nobody needed the account, so what they would have carried is reckoned here: it
makes no difference when somebody looks.
"""

from datetime import datetime
from decimal import Decimal

from domain.budget.account import ZERO, Book, bounded
from domain.periods import following_span, periods_between
from events.budget import UNIT_OF, BudgetAllocated
from events.words import CarryOver


def next_period(book: Book, now: datetime) -> BudgetAllocated:
    """Return the allocation of the period that `now` is in, for a book that is over and resets."""
    assert book.end is not None
    assert book.allocated is not None
    base = book.allocated if book.base is None else book.base
    span = following_span(book.period, book.zone, now, after=book.end)
    amount, owed = _begins_with(book, base, periods_between(book.period, book.zone, book.end, span.start))
    return allocation_of(book).model_copy(
        update={
            "amount": amount,
            "period_start": span.start,
            "period_end": span.end,
            "auto_reset": True,
            "base_amount": base,
            "owed": owed,
        }
    )


def allocation_of(book: Book) -> BudgetAllocated:
    """Return the allocation as it stands."""
    assert book.allocated is not None
    return BudgetAllocated(
        resource=book.resource,
        amount=book.allocated,
        unit=UNIT_OF[book.resource],
        period=book.period,
        period_start=book.start,
        period_end=book.end,
        time_zone=book.zone,
        auto_reset=book.auto_reset,
        soft=book.soft,
        thresholds=book.thresholds,
        carry=book.carry,
        on_exhausted=book.on_exhausted,
        base_amount=book.base,
        owed=book.owed,
    )


def _begins_with(book: Book, base: Decimal, skipped: int) -> tuple[Decimal, Decimal]:
    """Return the amount and the debt that is left, after `skipped` periods in which nothing was used.

    What is reserved when a period ends counts as used: it is settled in that period, and what it may leave over then is
    not given twice.
    """
    assert book.allocated is not None
    balance = book.allocated - book.used - book.reserved
    match book.carry:
        case CarryOver.NONE:
            return base, ZERO
        case CarryOver.UNUSED:
            return bounded(base * (1 + skipped) + max(balance, ZERO)), ZERO
        case CarryOver.DEBT:
            debt = book.owed + max(book.used - book.allocated, ZERO)
            left = base * (1 + skipped) - debt
            return min(base, max(left, ZERO)), bounded(-left)
