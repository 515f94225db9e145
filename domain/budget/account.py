"""A budget account: what one node (`_hub`, a project, a machine) may use, has used and has set aside.

An account has one book per resource and kind of period. The total is always kept, capped or not, so that the totals of
the machines add up to their project's and those to the hub's; a daily, weekly or monthly book begins with its first
allocation. Periods and their boundaries are read from the events: folding never asks a clock or a time zone.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from decimal import Decimal
from uuid import UUID

from domain.tariff import AMOUNT_MAX
from events.base import Event
from events.budget import (
    BUDGETED,
    THRESHOLDS_PERCENT,
    BudgetAllocated,
    BudgetDrawn,
    BudgetExhausted,
    BudgetExtended,
    BudgetRefused,
    BudgetReleased,
    BudgetRequested,
    BudgetReserved,
    BudgetSettled,
    BudgetThresholdCrossed,
    BudgetTopUpRequested,
    Line,
    SharesRebalanced,
)
from events.checkpoint import Balance
from events.words import BudgetPeriod, CarryOver, OnExhausted, Resource

Key = tuple[Resource, BudgetPeriod]
PastKey = tuple[Resource, BudgetPeriod, datetime]
Asked = BudgetRequested | BudgetTopUpRequested
ZERO = Decimal(0)


@dataclass(frozen=True, slots=True)
class Book:
    """One resource in one period of one account; a new period is a new book."""

    resource: BUDGETED
    period: BudgetPeriod
    start: datetime
    end: datetime | None = None
    allocated: Decimal | None = None
    """None: no cap here. 0 is a cap."""
    zone: str = "UTC"
    auto_reset: bool = True
    base: Decimal | None = None
    """What every period is given, before what is carried over or added."""
    owed: Decimal = ZERO
    """Debt of earlier periods that this one's amount could not make up for."""
    soft: Decimal | None = None
    thresholds: tuple[int, ...] = THRESHOLDS_PERCENT
    carry: CarryOver = CarryOver.NONE
    on_exhausted: OnExhausted = OnExhausted.PARK
    used: Decimal = ZERO
    reserved: Decimal = ZERO
    said: frozenset[int] = frozenset()
    """Thresholds, in percent, that have been said in this period."""
    soft_said: bool = False
    exhausted: bool = False

    @property
    def key(self) -> Key:
        return self.resource, self.period

    @property
    def past_key(self) -> PastKey:
        return self.resource, self.period, self.start

    def line(self, amount: Decimal) -> Line:
        return Line(resource=self.resource, amount=amount, period=self.period, period_start=self.start)


@dataclass(frozen=True, slots=True)
class Hold:
    """An open reservation: what one machine has set aside here, and in which periods."""

    machine_id: UUID
    lines: tuple[Line, ...]


def _books() -> Mapping[Key, Book]:
    return {}


def _past() -> Mapping[PastKey, Book]:
    return {}


def _holds() -> Mapping[UUID, Hold]:
    return {}


def _shares() -> Mapping[PastKey, Mapping[str, Decimal]]:
    return {}


def _pending() -> Mapping[Key, tuple[Asked, ...]]:
    return {}


@dataclass(frozen=True, slots=True)
class Account:
    """What one node of the budget tree stands at."""

    books: Mapping[Key, Book] = field(default_factory=_books)
    past: Mapping[PastKey, Book] = field(default_factory=_past)
    """Books of periods that are over, while a reservation made in them is open."""
    holds: Mapping[UUID, Hold] = field(default_factory=_holds)
    """Open reservations by their id; a resolved one is gone from here, so it cannot be resolved twice."""
    pending: Mapping[Key, tuple[Asked, ...]] = field(default_factory=_pending)
    """What no BudgetAllocated or BudgetRefused has answered yet: for one book the last request and what was added after."""
    shares: Mapping[PastKey, Mapping[str, Decimal]] = field(default_factory=_shares)
    """How what is allocated here was last said to be shared, by project."""

    def all_books(self) -> tuple[Book, ...]:
        return (*self.books.values(), *self.past.values())


def evolve(account: Account, event: Event) -> Account:  # noqa: C901, PLR0911 - one return per event
    """Fold one event of the account's own history; what is none of a budget's leaves it as it is."""
    match event:
        case BudgetRequested():
            return replace(account, pending={**account.pending, (event.resource, event.period): (event,)})
        case BudgetTopUpRequested():
            key = (event.resource, event.period)
            return replace(account, pending={**account.pending, key: (*account.pending.get(key, ()), event)})
        case BudgetRefused():
            return replace(
                account, pending={key: asked for key, asked in account.pending.items() if key[0] != event.resource}
            )
        case BudgetAllocated():
            return _allocated(account, event)
        case BudgetReserved():
            return _reserved(account, event)
        case BudgetSettled():
            return _moved(_released(account, event.reservation_id), event.lines, used=True)
        case BudgetReleased():
            return _released(account, event.reservation_id)
        case BudgetExtended():
            return _extended(account, event)
        case BudgetDrawn():
            return _drawn(account, event)
        case BudgetThresholdCrossed() | BudgetExhausted():
            return _said(account, event)
        case SharesRebalanced():
            return _shared(account, event)
        case _:
            return account


def balances(account: Account) -> dict[Resource, Balance]:
    """Return what the account stands at by capped resource; of several periods the one with the least left."""
    tightest: dict[Resource, Book] = {}
    for book in account.books.values():
        known = tightest.get(book.resource)
        if book.allocated is not None and (known is None or free(book) < free(known)):
            tightest[book.resource] = book
    return {
        resource: Balance(
            allocated=bounded(book.allocated or ZERO), used=bounded(book.used), reserved=bounded(book.reserved)
        )
        for resource, book in tightest.items()
    }


def left(book: Book) -> Decimal:
    """Return what is allocated less what is used: what the book could hold with no reservations."""
    return (AMOUNT_MAX if book.allocated is None else book.allocated) - book.used


def free(book: Book) -> Decimal:
    """Return what can be reserved now; below zero after an allocation was lowered or use overran its reservation."""
    return left(book) - book.reserved


def bounded(amount: Decimal) -> Decimal:
    """Return the amount as an event can say it: never below zero or above NUMERIC(20,9)."""
    return min(max(amount, ZERO), AMOUNT_MAX)


def _allocated(account: Account, event: BudgetAllocated) -> Account:
    key = (event.resource, event.period)
    known = account.books.get(key)
    past = dict(account.past)
    if known is None or known.start != event.period_start:
        if known is not None:
            past[known.past_key] = known
        known = Book(event.resource, event.period, event.period_start)
    book = replace(
        known,
        end=event.period_end,
        allocated=event.amount,
        zone=event.time_zone,
        auto_reset=event.auto_reset,
        base=event.amount if event.base_amount is None else event.base_amount,
        owed=event.owed,
        soft=event.soft,
        thresholds=event.thresholds,
        carry=event.carry,
        on_exhausted=event.on_exhausted,
    )
    pending = {other: asked for other, asked in account.pending.items() if other != key}
    return replace(account, books={**account.books, key: book}, past=past, pending=pending)


def _reserved(account: Account, event: BudgetReserved) -> Account:
    hold = Hold(event.machine_id, event.lines)
    held = replace(account, holds={**account.holds, event.reservation_id: hold})
    return _swept(_moved(held, event.lines))


def _extended(account: Account, event: BudgetExtended) -> Account:
    hold = account.holds.get(event.reservation_id)
    if hold is None:
        return account
    return _moved(_holding(account, event.reservation_id, hold, event.lines), event.lines)


def _drawn(account: Account, event: BudgetDrawn) -> Account:
    """Move what was used out of the hold, at most what it holds of each line; use itself counts whole."""
    hold = account.holds.get(event.reservation_id)
    if hold is None:
        return _moved(account, event.lines, used=True)
    held = _by_period(hold.lines)
    moved = tuple(
        line.model_copy(update={"amount": min(line.amount, held[_period(line)])})
        for line in event.lines
        if _period(line) in held
    )
    less = _moved(_holding(account, event.reservation_id, hold, moved, sign=-1), moved, sign=-1)
    return _moved(less, event.lines, used=True)


def _holding(account: Account, reservation_id: UUID, hold: Hold, lines: tuple[Line, ...], *, sign: int = 1) -> Account:
    """Add the lines to what a reservation holds; a line that has become 0 stays, its period is still the hold's."""
    held = _by_period(hold.lines)
    of = {_period(line): line for line in (*lines, *hold.lines)}
    for line in lines:
        held[_period(line)] = held.get(_period(line), ZERO) + sign * line.amount
    changed = tuple(line.model_copy(update={"amount": held[key]}) for key, line in of.items())
    return replace(account, holds={**account.holds, reservation_id: replace(hold, lines=changed)})


def _by_period(lines: tuple[Line, ...]) -> dict[PastKey, Decimal]:
    held: dict[PastKey, Decimal] = {}
    for line in lines:
        held[_period(line)] = held.get(_period(line), ZERO) + line.amount
    return held


def _period(line: Line) -> PastKey:
    return line.resource, line.period, line.period_start


def _released(account: Account, reservation_id: UUID) -> Account:
    hold = account.holds.get(reservation_id)
    if hold is None:
        return account
    holds = {other: open_hold for other, open_hold in account.holds.items() if other != reservation_id}
    return _moved(replace(account, holds=holds), hold.lines, sign=-1)


def _moved(account: Account, lines: tuple[Line, ...], *, used: bool = False, sign: int = 1) -> Account:
    """Add the lines to what is used, or (with `sign`) to what is reserved, each in the period it names."""
    for line in lines:
        book = _book(account, line)
        change = sign * line.amount
        moved = replace(book, used=book.used + change) if used else replace(book, reserved=book.reserved + change)
        account = _put(account, moved)
    return account


def _said(account: Account, event: BudgetThresholdCrossed | BudgetExhausted) -> Account:
    book = _book(account, event)
    if isinstance(event, BudgetExhausted):
        return _put(account, replace(book, exhausted=True))
    if event.soft is not None:
        return _put(account, replace(book, soft_said=True))
    return _put(account, replace(book, said=book.said | {event.percent}))


def _shared(account: Account, event: SharesRebalanced) -> Account:
    """Remember the shares of the present period; those of one that is over matter to nobody."""
    key = (event.resource, event.period, event.period_start)
    kept = {other: shares for other, shares in account.shares.items() if other[:2] != key[:2]}
    return replace(account, shares={**kept, key: event.shares})


def _book(account: Account, of: Line | BudgetThresholdCrossed | BudgetExhausted) -> Book:
    current = account.books.get((of.resource, of.period))
    if current is not None and current.start == of.period_start:
        return current
    past = account.past.get((of.resource, of.period, of.period_start))
    return past or Book(of.resource, of.period, of.period_start)


def _put(account: Account, book: Book) -> Account:
    current = account.books.get(book.key)
    if current is None or current.start == book.start:
        return replace(account, books={**account.books, book.key: book})
    return replace(account, past={**account.past, book.past_key: book})


def _swept(account: Account) -> Account:
    """Forget periods that are over and that no open reservation was made in."""
    if not account.past:
        return account
    held = {(line.resource, line.period, line.period_start) for hold in account.holds.values() for line in hold.lines}
    return replace(account, past={key: book for key, book in account.past.items() if key in held})
