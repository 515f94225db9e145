"""What is set aside for one machine on every account of its path, and how its calls fit into it.

    room = envelope - undrawn use - open calls - what running the machine itself may still cost

The envelope is what the machine's own account holds under its reservation. It can be extended, on the whole path at
once; use is drawn out of it, on the whole path at once.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from uuid import UUID

from domain.budget.account import ZERO, Account, Book, Hold, bounded, free, left
from domain.budget.admission import lines
from domain.budget.allocation import is_over
from domain.budget.calls import Amounts, Calls
from events.budget import BUDGETED, Line
from events.words import BudgetPeriod, Resource

OF_CALLS: tuple[BUDGETED, ...] = (Resource.MONEY, Resource.TOKENS, Resource.API_CALLS)
"""What a model call uses."""


@dataclass(frozen=True, slots=True)
class Envelope:
    """The accounts of the path, by node from the hub down, and the machine's calls."""

    accounts: Mapping[str, Account]
    node: str
    """The machine's own."""
    reservation_id: UUID
    calls: Calls
    aside_cad: Decimal
    """What running the machine itself may cost at most, in all, under this reservation."""

    @property
    def own(self) -> Account:
        return self.accounts[self.node]

    @property
    def hold(self) -> Hold | None:
        return self.own.holds.get(self.reservation_id)

    def holds(self, resource: BUDGETED) -> Decimal | None:
        """Return how much is set aside of a resource; None: nothing was asked of it."""
        found = [line.amount for line in self.hold.lines if _counts(line, resource)] if self.hold else []
        return sum(found, ZERO) if found else None

    def is_limited(self, resource: BUDGETED) -> bool:
        """Whether anybody caps the resource: money always, others when an account of the path or the request does."""
        if resource is Resource.MONEY or self.holds(resource) is not None:
            return True
        return any(
            book.allocated is not None for account in self.accounts.values() for book in _books(account, resource)
        )

    def room(self, resource: BUDGETED) -> Decimal:
        """Return what another call can have of it now; below zero after an overrun."""
        return (self.holds(resource) or ZERO) - self.calls.held.get(resource, ZERO) - self._taken(resource)

    def room_later(self, resource: BUDGETED) -> Decimal:
        """Return what a call could have if all open calls of the machine turned out to cost nothing."""
        return (self.holds(resource) or ZERO) - self._taken(resource)

    def _taken(self, resource: BUDGETED) -> Decimal:
        aside = self.aside_cad if resource is Resource.MONEY else ZERO
        return self.calls.undrawn.get(resource, ZERO) + aside


@dataclass(frozen=True, slots=True)
class Obstacle:
    """The book that stands in the way of more being set aside."""

    node: str
    book: Book
    asked: Decimal
    available: Decimal
    by_use: bool
    """Waiting for reservations to go does not help."""


def obstacle(envelope: Envelope, wanted: Amounts, now: datetime) -> Obstacle | None:
    """Return what stands in the way of extending the envelope by so much; use before reservations, and from the hub down."""
    found = [
        Obstacle(
            node, book, wanted[book.resource], bounded(free(book)), by_use=_by_use(envelope, node, book, wanted, now)
        )
        for node, account in envelope.accounts.items()
        for resource in wanted
        for book in _books(account, resource)
        if book.allocated is not None and (is_over(book, now) or wanted[book.resource] > free(book))
    ]
    return next((each for each in found if each.by_use), found[0] if found else None)


def _by_use(envelope: Envelope, node: str, book: Book, wanted: Amounts, now: datetime) -> bool:
    """Whether the book has been used up so far that the machine's own hold and this do not fit beside the use."""
    if is_over(book, now):
        return True
    hold = envelope.accounts[node].holds.get(envelope.reservation_id)
    own = sum((line.amount for line in hold.lines if _same(line, book)), ZERO) if hold else ZERO
    return wanted[book.resource] > left(book) - own


def extension(envelope: Envelope, wanted: Amounts, now: datetime) -> dict[str, tuple[Line, ...]]:
    """Return the lines, by node, with which the envelope is extended."""
    return {node: lines(account, wanted, now) for node, account in envelope.accounts.items()}


def drawing(account: Account, reservation_id: UUID, used: Amounts, now: datetime) -> tuple[Line, ...]:
    """Return where use counts on one account: in the periods in which it was held, oldest first.

    What is used beyond what was held counts in the newest of them, except in a kind of period that somebody began to
    budget after the rest was held: there counts what was held there, and nothing that was not. A resource of which nothing
    was held counts in the present periods: use is recorded, never hidden.
    """
    hold = account.holds.get(reservation_id)
    drawn: list[Line] = []
    for resource, amount in used.items():
        held = [line for line in hold.lines if line.resource is resource] if hold else []
        if not held:
            drawn += lines(account, {resource: amount}, now)
            continue
        in_all = _sum(line for line in held if line.period is BudgetPeriod.TOTAL)
        for period in dict.fromkeys(line.period for line in held):
            of_kind = sorted((line for line in held if line.period is period), key=lambda line: line.period_start)
            drawn += _spread(of_kind, amount, spill=_sum(of_kind) >= in_all)
    return tuple(line for line in drawn if line.amount > 0)


def _spread(held: list[Line], amount: Decimal, *, spill: bool) -> list[Line]:
    spread: list[Line] = []
    for line in held:
        part = amount if spill and line is held[-1] else min(amount, line.amount)
        spread.append(line.model_copy(update={"amount": part}))
        amount -= part
    return spread


def _sum(held: Iterable[Line]) -> Decimal:
    return sum((line.amount for line in held), ZERO)


def _books(account: Account, resource: BUDGETED) -> list[Book]:
    return [book for book in account.books.values() if book.resource is resource]


def _same(line: Line, book: Book) -> bool:
    return (line.resource, line.period, line.period_start) == book.past_key


def _counts(line: Line, resource: Resource) -> bool:
    return line.resource is resource and line.period is BudgetPeriod.TOTAL
