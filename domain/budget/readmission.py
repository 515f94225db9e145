"""Letting a parked machine run again: a new reservation on the whole path, with room for what it was refused."""

from collections.abc import Mapping
from decimal import Decimal

from domain.budget.account import ZERO, Account, free, left
from domain.budget.admission import lines
from domain.budget.allocation import folded, is_over, opened
from domain.budget.calls import Amounts
from domain.budget.decision import NOTHING, Decision, Readmit, Situation, reservation_of
from domain.budget.machine import Machine, Standing, asks, asks_of_host
from domain.tariff import Tariff, worst_case
from events.budget import BUDGETED, BudgetReserved
from events.ids import HUB
from events.machine import MachineAdmitted, MachineEvent, MachineRequested, MachineResumed
from events.words import BudgetPeriod, Hold, Resource

LIFTED = frozenset({Hold.BUDGET, Hold.CAPACITY})
"""The holds that go by being admitted anew."""


def readmit(command: Readmit, at: Situation) -> Decision:
    """Decide on a parked machine whose reservation is resolved; one that there is no room for stays parked, unsaid."""
    machine = at.machine
    request, reservation_id = machine.request, machine.reservation_id
    if machine.standing is not Standing.PARKED or request is None or machine.stop_requested:
        return NOTHING
    if machine.holds - LIFTED or reservation_id is None or reservation_id in at.account(at.node).holds:
        return NOTHING
    said = {node: opened(at.account(node), at.owner(node), node, command.now) for node in at.path}
    accounts = {node: folded(at.account(node), said[node]) for node in at.path}
    wanted = _wanted(at, accounts[at.node], command.tariff)
    if wanted is None or len(accounts[HUB].holds) >= command.machines_max:
        return NOTHING
    wanted = {**wanted, **_of_host(request, machine, accounts, command.tariff)}
    if not _fit(accounts, wanted, command):
        return NOTHING
    renewed = reservation_of(at.machine_id, machine.admissions)
    reserved = {
        node: (
            *said[node],
            BudgetReserved(reservation_id=renewed, machine_id=at.machine_id, lines=lines(account, wanted, command.now)),
        )
        for node, account in accounts.items()
    }
    held: dict[Resource, Decimal] = dict(wanted)
    again: list[MachineEvent] = [MachineAdmitted(reservation_id=renewed, held=held)]
    again += [MachineResumed(hold=hold) for hold in (Hold.BUDGET, Hold.CAPACITY) if hold in machine.holds]
    return Decision(tuple(again), reserved)


def aside_cad(machine: Machine, tariff: Tariff) -> Decimal:
    """Return what running the machine may still cost from its last admission on: what is kept aside from its calls."""
    if machine.request is None:
        return ZERO
    worst = worst_case(machine.request.limits, tariff).cad
    return max(ZERO, worst - machine.used_before.get(Resource.MONEY, ZERO))


def _wanted(at: Situation, own: Account, tariff: Tariff) -> Amounts | None:
    """Return what is to be set aside; None: the machine's own cap leaves no room for the call that it was refused."""
    request = at.machine.request
    assert request is not None, "a parked machine was requested"
    used = _used(at.machine)
    wanted: dict[BUDGETED, Decimal] = {
        resource: max(ZERO, amount - used.get(resource, ZERO)) for resource, amount in asks(request, tariff).items()
    }
    running = max(ZERO, worst_case(request.limits, tariff).cad - used.get(Resource.MONEY, ZERO))
    refused = at.calls.refused
    needed: dict[BUDGETED, Decimal] = {Resource.MONEY: running}
    if refused is not None and refused.resource in {Resource.MONEY, Resource.TOKENS, Resource.API_CALLS}:
        needed[refused.resource] = needed.get(refused.resource, ZERO) + refused.asked
    wanted[Resource.MONEY] = running
    for resource, amount in needed.items():
        cap = _own_left(own, resource)
        if cap is not None and amount > cap:
            return None
        capped = (
            request.budget if resource is Resource.MONEY else request.calls if resource is Resource.API_CALLS else None
        )
        wanted[resource] = amount if capped is None or cap is None else cap
    return wanted


def _of_host(request: MachineRequested, machine: Machine, accounts: Mapping[str, Account], tariff: Tariff) -> Amounts:
    """Return what it may still take of its host, of the resources that somebody has capped."""
    used = _used(machine)
    books = [book for account in accounts.values() for book in account.books.values() if book.allocated is not None]
    capped = {book.resource for book in books}
    return {
        resource: max(ZERO, amount - used.get(resource, ZERO))
        for resource, amount in asks_of_host(request, tariff).items()
        if resource in capped
    }


def _own_left(own: Account, resource: BUDGETED) -> Decimal | None:
    book = own.books.get((resource, BudgetPeriod.TOTAL))
    return None if book is None or book.allocated is None else left(book)


def _used(machine: Machine) -> Mapping[BUDGETED, Decimal]:
    used: dict[BUDGETED, Decimal] = dict(machine.used_before)
    for resource, amount in machine.usage.items():
        used[resource] = used.get(resource, ZERO) + amount
    return used


def _fit(accounts: Mapping[str, Account], wanted: Amounts, command: Readmit) -> bool:
    return all(
        wanted[book.resource] <= free(book) and not is_over(book, command.now)
        for account in accounts.values()
        for book in account.books.values()
        if book.allocated is not None and book.resource in wanted
    )
