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

    What no period of a kind holds counts in the present one: use is recorded, never hidden.
    """
    hold = account.holds.get(reservation_id)
    present = {(line.resource, line.period): line for line in lines(account, used, now)}
    drawn: dict[tuple[Resource, BudgetPeriod, datetime], Line] = {}
    for (resource, period), line in present.items():
        rest = used[resource]
        held = sorted(_of_kind(hold, resource, period), key=lambda each: each.period_start)
        for each in (*held, line):
            part = rest if each is line else min(rest, each.amount)
            if part > 0:
                _put(drawn, each.model_copy(update={"amount": part}))
                rest -= part
    for line in _gone_kinds(hold, present, used):
        _put(drawn, line)
    return tuple(drawn.values())


def _gone_kinds(
    hold: Hold | None, present: Mapping[tuple[Resource, BudgetPeriod], Line], used: Amounts
) -> Iterable[Line]:
    """Lines of periods that were held and have no successor: what is used still counts there, as far as held."""
    rest = dict(used)
    for line in sorted(hold.lines, key=lambda each: each.period_start) if hold else ():
        if line.resource in used and (line.resource, line.period) not in present:
            part = min(rest[line.resource], line.amount)
            if part > 0:
                yield line.model_copy(update={"amount": part})


def _put(drawn: dict[tuple[Resource, BudgetPeriod, datetime], Line], line: Line) -> None:
    key = (line.resource, line.period, line.period_start)
    before = drawn[key].amount if key in drawn else ZERO
    drawn[key] = line.model_copy(update={"amount": before + line.amount})


def _of_kind(hold: Hold | None, resource: Resource, period: BudgetPeriod) -> list[Line]:
    return [line for line in hold.lines if line.resource is resource and line.period is period] if hold else []


def _books(account: Account, resource: BUDGETED) -> list[Book]:
    return [book for book in account.books.values() if book.resource is resource]


def _same(line: Line, book: Book) -> bool:
    return (line.resource, line.period, line.period_start) == book.past_key


def _counts(line: Line, resource: Resource) -> bool:
    return line.resource is resource and line.period is BudgetPeriod.TOTAL
