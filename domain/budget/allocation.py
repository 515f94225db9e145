"""What an account may use: answering requests, and opening the next period when one is over."""

from datetime import datetime
from uuid import UUID

from domain.budget.account import Account, Book, bounded, evolve
from domain.periods import UnknownZone, following_span, span_at, zone_named
from events.budget import (
    UNIT_OF,
    BudgetAllocated,
    BudgetEvent,
    BudgetExhausted,
    BudgetRefused,
    BudgetRequested,
    BudgetThresholdCrossed,
)
from events.words import Resource

THRESHOLDS_PERCENT = (50, 80, 95, 100)


def opened(account: Account, project: str, node: str, now: datetime) -> tuple[BudgetEvent, ...]:
    """Bring an account up to `now`: answer what was asked of it and open the periods that have begun.

    Every decision about an account starts with this, so that what it decides on is in the log before it. Periods open
    when somebody needs them, not at midnight; one whose account was not used in between is left out. An account that
    is up to date gives nothing: a request delivered again is answered once.
    """
    said: list[BudgetEvent] = []
    for requested in account.pending.values():
        said += _answer(account, project, node, requested, now)
    answered = folded(account, said)
    said += [_next_period(book, now) for book in answered.books.values() if is_over(book, now) and book.auto_reset]
    return (*said, *crossed(folded(account, said)))


def folded(account: Account, said: list[BudgetEvent] | tuple[BudgetEvent, ...]) -> Account:
    for event in said:
        account = evolve(account, event)
    return account


def crossed(account: Account) -> tuple[BudgetEvent, ...]:
    """Return the thresholds that use has reached and nobody has said yet; each once per period."""
    said: list[BudgetEvent] = []
    for book in account.all_books():
        if book.allocated is None or not book.used:
            continue
        percents = (p for p in THRESHOLDS_PERCENT if p not in book.said and book.used * 100 >= book.allocated * p)
        said += [_threshold(book, percent) for percent in percents]
        if not book.exhausted and book.used >= book.allocated:
            said.append(
                BudgetExhausted(
                    resource=book.resource,
                    period=book.period,
                    period_start=book.start,
                    used=bounded(book.used),
                    allocated=book.allocated,
                )
            )
    return tuple(said)


def is_over(book: Book, now: datetime) -> bool:
    """Say whether the book's period has ended; one that does not reset allows nothing from then on."""
    return book.end is not None and book.end <= now


def _answer(account: Account, project: str, node: str, asked: BudgetRequested, now: datetime) -> list[BudgetEvent]:
    reason = _refusal(project, node, asked)
    if reason:
        return [BudgetRefused(resource=asked.resource, reason=reason)]
    return [_allocation(account.books.get((asked.resource, asked.period)), asked, now)]


def _refusal(project: str, node: str, asked: BudgetRequested) -> str:
    unit = UNIT_OF[asked.resource]
    if not _is_account(project, node):
        return (
            f"there is no account {node[:80]!r} in {project}; the accounts are {project!r} and the ids of its machines"
        )
    if asked.unit is not unit:
        return f"{asked.resource} is budgeted in {unit}, not in {asked.unit}"
    if asked.resource is Resource.API_CALLS and asked.amount % 1:
        return f"{asked.amount} calls: calls are whole"
    try:
        zone_named(asked.time_zone)
    except UnknownZone as error:
        return str(error)
    return ""


def _is_account(project: str, node: str) -> bool:
    if node == project:
        return True
    try:
        return str(UUID(node)) == node
    except ValueError:
        return False


def _allocation(book: Book | None, asked: BudgetRequested, now: datetime) -> BudgetAllocated:
    """Set the amount for the running period; what has been used in it stays used, whatever zone is asked for now."""
    if book is not None and not is_over(book, now):
        start, end = book.start, book.end
    else:
        span = span_at(asked.period, asked.time_zone, now)
        start = span.start if book is None or book.end is None else max(span.start, book.end)
        end = span.end
    return BudgetAllocated(
        resource=asked.resource,
        amount=asked.amount,
        unit=UNIT_OF[asked.resource],
        period=asked.period,
        period_start=start,
        period_end=end,
        time_zone=asked.time_zone,
        auto_reset=asked.auto_reset,
    )


def _next_period(book: Book, now: datetime) -> BudgetAllocated:
    assert book.end is not None
    assert book.allocated is not None
    span = following_span(book.period, book.zone, now, after=book.end)
    return BudgetAllocated(
        resource=book.resource,
        amount=book.allocated,
        unit=UNIT_OF[book.resource],
        period=book.period,
        period_start=span.start,
        period_end=span.end,
        time_zone=book.zone,
        auto_reset=True,
    )


def _threshold(book: Book, percent: int) -> BudgetThresholdCrossed:
    assert book.allocated is not None
    return BudgetThresholdCrossed(
        resource=book.resource,
        period=book.period,
        period_start=book.start,
        percent=percent,
        used=bounded(book.used),
        allocated=book.allocated,
    )
