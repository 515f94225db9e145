"""What an account may use: answering requests, and opening the next period when one is over."""

from datetime import datetime
from decimal import Decimal
from uuid import UUID

from domain.budget.account import Account, Asked, Book, bounded, evolve
from domain.budget.turn import allocation_of, next_period
from domain.periods import UnknownZone, span_at, zone_named
from events.budget import (
    UNIT_OF,
    BudgetAllocated,
    BudgetEvent,
    BudgetExhausted,
    BudgetRefused,
    BudgetRequested,
    BudgetThresholdCrossed,
    BudgetTopUpRequested,
)
from events.words import BudgetPeriod, CarryOver, Resource, Unit


def opened(account: Account, project: str, node: str, now: datetime) -> tuple[BudgetEvent, ...]:
    """Bring an account up to `now`: answer what was asked of it and open the periods that have begun.

    Every decision about an account starts with this, so that what it decides on is in the log before it. Periods open
    when somebody needs them, not at midnight; one whose account was not used in between is left out. An account that
    is up to date gives nothing: a request delivered again is answered once.
    """
    said: list[BudgetEvent] = []
    for requested in (asked for of_book in account.pending.values() for asked in of_book):
        said += _answer(folded(account, said), project, node, requested, now)
    said += [next_period(book, now) for book in folded(account, said).books.values() if _turns(book, now)]
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
        percents = (p for p in sorted(book.thresholds) if p not in book.said and book.used * 100 >= book.allocated * p)
        said += [_threshold(book, percent) for percent in percents]
        if book.soft is not None and not book.soft_said and book.used >= book.soft:
            said.append(_threshold(book, _place(book.soft, book.allocated), soft=book.soft))
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


def _turns(book: Book, now: datetime) -> bool:
    return is_over(book, now) and book.auto_reset


def _answer(account: Account, project: str, node: str, asked: Asked, now: datetime) -> list[BudgetEvent]:
    book = account.books.get((asked.resource, asked.period))
    amount = _in_unit(asked)
    if amount is None:
        return [BudgetRefused(resource=asked.resource, reason=_wrong_unit(asked))]
    if isinstance(asked, BudgetTopUpRequested):
        if book is None or book.allocated is None or (is_over(book, now) and not book.auto_reset):
            return [BudgetRefused(resource=asked.resource, reason=_nothing_to_add_to(project, node, asked))]
        return _topped_up(book, amount, now)
    reason = _refusal(project, node, asked, amount)
    if reason:
        return [BudgetRefused(resource=asked.resource, reason=reason)]
    return [_allocation(book, asked, amount, now)]


def _topped_up(book: Book, amount: Decimal, now: datetime) -> list[BudgetEvent]:
    """Add to the present period, which is opened before if nobody has needed it yet."""
    if is_over(book, now):
        said = next_period(book, now)
        return [said, _added(said, amount)]
    return [_added(allocation_of(book), amount)]


def _nothing_to_add_to(project: str, node: str, asked: BudgetTopUpRequested) -> str:
    """Say so, with the command that sets what was to be added to."""
    amount = f"{asked.amount:f}CAD" if asked.resource is Resource.MONEY else f"{asked.amount:f}"
    own = "" if node == project else f" --machine {node[:80]}"
    resource = "" if asked.resource is Resource.MONEY else f" --resource {asked.resource}"
    period = "" if asked.period is BudgetPeriod.TOTAL else f" --period {asked.period}"
    command = f"autovibe budget set {project[:80]} {amount}{own}{resource}{period}"
    return f"{node[:80]} has no {asked.period} allocation of {asked.resource} to add to; set one: {command}"


def _added(to: BudgetAllocated, amount: Decimal) -> BudgetAllocated:
    return to.model_copy(
        update={
            "amount": bounded(to.amount + amount),
            "base_amount": to.amount if to.base_amount is None else to.base_amount,
        }
    )


def _in_unit(asked: Asked) -> Decimal | None:
    """Return the amount in the unit in which the resource is counted; None: it cannot be said in it."""
    if asked.unit is UNIT_OF[asked.resource]:
        return asked.amount
    if asked.resource is Resource.TIME and asked.unit is Unit.HOURS:
        return bounded(asked.amount * 60)
    return None


def _wrong_unit(asked: Asked) -> str:
    said = f"{asked.resource} is budgeted in {UNIT_OF[asked.resource]}, not in {asked.unit}"
    if asked.unit is Unit.USD:
        return f"{said}; say it in CAD, whatever the providers bill in: exchange rates move, a budget does not"
    return said


def _refusal(project: str, node: str, asked: BudgetRequested, amount: Decimal) -> str:
    if not _is_account(project, node):
        return (
            f"there is no account {node[:80]!r} in {project}; the accounts are {project!r} and the ids of its machines"
        )
    if asked.resource in {Resource.API_CALLS, Resource.TOKENS} and amount % 1:
        return f"{amount} {UNIT_OF[asked.resource]}: {UNIT_OF[asked.resource]} are whole"
    if asked.soft is not None and asked.soft > asked.amount:
        return f"a soft limit of {asked.soft} is never reached within {asked.amount}; it must not be more"
    if asked.carry is not CarryOver.NONE and (asked.period is BudgetPeriod.TOTAL or not asked.auto_reset):
        return f"nothing is carried over from a {asked.period} budget that has no next period"
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


def _allocation(book: Book | None, asked: BudgetRequested, amount: Decimal, now: datetime) -> BudgetAllocated:
    """Set the amount for the running period; what has been used in it stays used, whatever zone is asked for now."""
    if book is not None and not is_over(book, now):
        start, end = book.start, book.end
    else:
        span = span_at(asked.period, asked.time_zone, now)
        start = span.start if book is None or book.end is None else max(span.start, book.end)
        end = span.end
    return BudgetAllocated(
        resource=asked.resource,
        amount=amount,
        unit=UNIT_OF[asked.resource],
        period=asked.period,
        period_start=start,
        period_end=end,
        time_zone=asked.time_zone,
        auto_reset=asked.auto_reset,
        soft=None if asked.soft is None else bounded(asked.soft * (60 if asked.unit is Unit.HOURS else 1)),
        thresholds=asked.thresholds,
        carry=asked.carry,
        on_exhausted=asked.on_exhausted,
    )


def _threshold(book: Book, percent: int, soft: Decimal | None = None) -> BudgetThresholdCrossed:
    assert book.allocated is not None
    return BudgetThresholdCrossed(
        resource=book.resource,
        period=book.period,
        period_start=book.start,
        percent=percent,
        used=bounded(book.used),
        allocated=book.allocated,
        soft=soft,
    )


def _place(soft: Decimal, allocated: Decimal) -> int:
    return 100 if not allocated else max(1, min(100, int(soft * 100 / allocated)))
