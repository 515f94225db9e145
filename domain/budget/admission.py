"""Whether a machine may run: admitted with what it may use at most set aside on every account, queued, or denied.

Denied: on some account what is allocated less what is used is too small, so that waiting cannot help.
Queued: only reservations of others, the hub's capacity, or somebody who came first stand in the way.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from decimal import ROUND_CEILING, Decimal

from domain.budget.account import ZERO, Account, Book, bounded, free, left
from domain.budget.allocation import folded, is_over, opened
from domain.budget.decision import NOTHING, Admit, Decision, Situation, nonempty, reservation_of
from domain.budget.machine import Standing, asks, asks_of_host
from domain.budget.queue import behind
from domain.periods import TOTAL_START
from domain.tariff import worst_case
from events.budget import (
    BUDGETED,
    UNIT_OF,
    BudgetAllocated,
    BudgetEvent,
    BudgetReserved,
    Line,
    ReservationRefused,
)
from events.ids import HUB
from events.machine import MachineAdmitted, MachineDenied, MachineEnded, MachineQueued, MachineRequested
from events.words import BudgetPeriod, Hold, MachineType, Outcome, Resource

_CENT = Decimal("0.01")
Asked = Mapping[BUDGETED, Decimal]
Said = Mapping[str, tuple[BudgetEvent, ...]]


@dataclass(frozen=True, slots=True)
class _Short:
    """The account, and its book, that cannot hold what was asked."""

    node: str
    book: Book
    asked: Decimal
    over: bool
    """The book's period has ended and does not reset."""

    @property
    def available(self) -> Decimal:
        return ZERO if self.over else bounded(free(self.book))


def admit(command: Admit, at: Situation) -> Decision:
    """Decide on a machine that was requested or is queued; anything else has been decided already."""
    request = at.machine.request
    if request is None or at.machine.standing not in {Standing.REQUESTED, Standing.QUEUED}:
        return NOTHING
    if at.machine.stop_requested:
        return cancelled("stopped before it was admitted")
    said: Said = {node: opened(at.account(node), at.owner(node), node, command.now) for node in at.path}
    accounts = {node: folded(at.account(node), said[node]) for node in at.path}
    asked = _asked(request, command, accounts)
    if (never := _never(at, request, asked, command)) is not None:
        return never
    if short := _denying(accounts, asked, command.now):
        return _denied(at, said, short)
    if queued := _in_the_way(command, at, accounts, asked):
        return _waits(command, at, said, queued)
    return _admitted(command.now, at, said, accounts, asked)


def _asked(request: MachineRequested, command: Admit, accounts: Mapping[str, Account]) -> Asked:
    """Return what is set aside: of the host's resources those that somebody has capped, so that others cost no lines."""
    capped = {
        book.resource for account in accounts.values() for book in account.books.values() if book.allocated is not None
    }
    of_host = {
        resource: amount for resource, amount in asks_of_host(request, command.tariff).items() if resource in capped
    }
    return {**asks(request, command.tariff), **of_host}


def _waits(command: Admit, at: Situation, said: Said, queued: MachineQueued) -> Decision:
    """Put it into the line unless that is full; MachineDenied would say that waiting can never help, which is untrue."""
    if command.queue_full and at.machine.standing is Standing.REQUESTED:
        why = f"as many machines of {at.slug} wait as may: ask again when some of them run"
        return Decision(cancelled(why, Outcome.DENIED).machine, nonempty(said))
    return Decision(() if queued == at.machine.queued else (queued,), nonempty(said))


def cancelled(reason: str, outcome: Outcome = Outcome.CANCELLED) -> Decision:
    """End a machine that never had an incarnation."""
    return Decision((MachineEnded(outcome=outcome, reason=reason),))


def lines(account: Account, asked: Asked, now: datetime) -> tuple[Line, ...]:
    """Return where these amounts count: the total, capped or not, and every period with an allocation of its own."""
    found: list[Line] = []
    for resource, amount in asked.items():
        total = account.books.get((resource, BudgetPeriod.TOTAL)) or Book(resource, BudgetPeriod.TOTAL, TOTAL_START)
        found.append(total.line(amount))
        found += [
            book.line(amount)
            for book in account.books.values()
            if book.resource == resource and book.period is not BudgetPeriod.TOTAL and not is_over(book, now)
        ]
    return tuple(found)


def _denying(accounts: Mapping[str, Account], asked: Asked, now: datetime) -> _Short | None:
    for node, account in accounts.items():
        for book in _capped(account, asked):
            over = is_over(book, now)
            if asked[book.resource] > (ZERO if over else left(book)):
                return _Short(node, book, asked[book.resource], over)
    return None


def _in_the_way(command: Admit, at: Situation, accounts: Mapping[str, Account], asked: Asked) -> MachineQueued | None:
    """Return what the machine waits for: its own project before the hub.

    So only those who could run if the hub had room stand in the hub's line and hold up others there.
    """
    ahead, greediness = command.ahead, at.machine.request.greediness if at.machine.request else None
    if ahead is not None and ahead.slug == at.slug:
        return behind(ahead, at.slug, asked, greediness)
    for node in at.path[:0:-1]:
        if short := _short_of(node, accounts[node], asked, greediness, command.now):
            return short
    if ahead is not None:
        return behind(ahead, at.slug, asked, greediness)
    if len(accounts[HUB].holds) >= command.machines_max:
        return MachineQueued(
            hold=Hold.CAPACITY,
            node=HUB,
            asked=Decimal(1),
            available=ZERO,
            wants=dict(asked),
            greediness=greediness,
        )
    return _short_of(HUB, accounts[HUB], asked, greediness, command.now)


def _short_of(
    node: str, account: Account, asked: Asked, greediness: Decimal | None, now: datetime
) -> MachineQueued | None:
    for book in _capped(account, asked):
        if asked[book.resource] > free(book) and not is_over(book, now):
            return MachineQueued(
                hold=Hold.BUDGET,
                node=node,
                resource=book.resource,
                asked=asked[book.resource],
                available=bounded(free(book)),
                wants=dict(asked),
                greediness=greediness,
            )
    return None


def _capped(account: Account, asked: Asked) -> list[Book]:
    return [book for book in account.books.values() if book.allocated is not None and book.resource in asked]


def _admitted(
    now: datetime,
    at: Situation,
    said: Said,
    accounts: Mapping[str, Account],
    asked: Asked,
) -> Decision:
    request = at.machine.request
    assert request is not None, "only what was requested is admitted"
    own = _own_caps(accounts[at.node], asked, request)
    said = {**said, at.node: (*said[at.node], *own)}
    accounts = {**accounts, at.node: folded(accounts[at.node], own)}
    reservation_id = reservation_of(at.machine_id)
    reserved = {
        node: (
            *said[node],
            BudgetReserved(
                reservation_id=reservation_id,
                machine_id=at.machine_id,
                lines=lines(account, asked, now),
            ),
        )
        for node, account in accounts.items()
    }
    held: dict[Resource, Decimal] = dict(asked.items())
    return Decision((MachineAdmitted(reservation_id=reservation_id, held=held),), reserved)


def _own_caps(account: Account, asked: Asked, request: MachineRequested) -> tuple[BudgetAllocated, ...]:
    """Cap the machine at what is set aside for it, in money and calls; a cap that somebody has set before stands.

    The money of a machine that calls models and was given no budget is not capped here: more is set aside as it goes.
    """
    open_ended = request.budget is None and request.machine_type is not MachineType.SHELL
    return tuple(
        BudgetAllocated(
            resource=resource,
            amount=asked[resource],
            unit=UNIT_OF[resource],
            period=BudgetPeriod.TOTAL,
            period_start=TOTAL_START,
        )
        for resource in (Resource.MONEY, Resource.API_CALLS)
        if resource in asked
        and (resource, BudgetPeriod.TOTAL) not in account.books
        and not (open_ended and resource is Resource.MONEY)
    )


def _denied(at: Situation, said: Said, short: _Short) -> Decision:
    book, unit = short.book, UNIT_OF[short.book.resource]
    allocated, used = book.allocated or ZERO, bounded(book.used)
    refused = ReservationRefused(
        reservation_id=reservation_of(at.machine_id),
        machine_id=at.machine_id,
        resource=book.resource,
        unit=unit,
        asked=short.asked,
        available=short.available,
    )
    denied = MachineDenied(
        node=short.node,
        resource=book.resource,
        unit=unit,
        asked=short.asked,
        available=short.available,
        allocated=allocated,
        used=used,
        reason=_why(short),
    )
    return Decision((denied,), nonempty({**said, short.node: (*said[short.node], refused)}))


def _why(short: _Short) -> str:
    book, unit = short.book, UNIT_OF[short.book.resource]
    asked = f"asked {_plain(short.asked)} {unit}"
    allocated = f"{_plain(book.allocated or ZERO)} {unit} ({book.period})"
    if short.over:
        return f"{asked}, the allocation of {short.node} of {allocated} ended at {book.end} and does not reset"
    return f"{asked}, {short.node} has {_plain(bounded(left(book)))} {unit} not yet used of {allocated}"


def _plain(amount: Decimal) -> str:
    return f"{amount.normalize():f}"


def _never(at: Situation, request: MachineRequested, asked: Asked, command: Admit) -> Decision | None:
    """Refuse what no account can help.

    A machine whose id is its project's slug: both would be one account, and its cap the project's. One whose own budget
    does not even pay for running it: nothing would hold it to that.
    """
    if at.node == at.slug:
        why = "the machine's id is the project's slug; request it with another id"
        return _refused(at, asked[Resource.MONEY], ZERO, why)
    worst = worst_case(request.limits, command.tariff).cad
    if request.budget is None or request.budget >= worst:
        return None
    enough = worst.quantize(_CENT, rounding=ROUND_CEILING)
    why = (
        f"running it for all of its time may cost {_plain(worst)} CAD (cores, memory, disk), its own budget is "
        f"{_plain(request.budget)} CAD: give it --budget {_plain(enough)}CAD or more, or a shorter --deadline"
    )
    return _refused(at, worst, request.budget, why)


def _refused(at: Situation, asked: Decimal, available: Decimal, reason: str) -> Decision:
    denied = MachineDenied(
        node=at.node,
        resource=Resource.MONEY,
        unit=UNIT_OF[Resource.MONEY],
        asked=asked,
        available=available,
        allocated=available,
        used=ZERO,
        reason=reason,
    )
    return Decision((denied,))
