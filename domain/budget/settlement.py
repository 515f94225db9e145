"""Resolving a reservation: settled with what was used, or released when nothing was; on every account in one batch."""

from collections.abc import Mapping
from datetime import datetime
from decimal import Decimal
from uuid import UUID

from domain.budget.account import ZERO, Account, bounded
from domain.budget.allocation import crossed, folded, opened
from domain.budget.decision import NOTHING, Decision, Settle, Situation, nonempty
from domain.budget.envelope import drawing
from domain.budget.machine import Standing
from events.budget import BUDGETED, BudgetEvent, BudgetReleased, BudgetSettled, Line


def settle(command: Settle, at: Situation) -> Decision:
    """Resolve what is held for a machine that is over or parked; an account that holds nothing for it did so before.

    While a model call of it is open nothing is resolved: what the call may cost stays set aside until it is known.
    """
    reservation_id = at.machine.reservation_id
    if reservation_id is None or at.machine.standing not in {Standing.OVER, Standing.PARKED} or at.calls.open:
        return NOTHING
    usage: dict[BUDGETED, Decimal] = dict(at.machine.usage)
    for resource, amount in at.calls.undrawn.items():
        usage[resource] = bounded(usage.get(resource, ZERO) + amount)
    return Decision(
        accounts=nonempty({node: _resolved(at, node, reservation_id, usage, command.now) for node in at.path})
    )


def _resolved(
    at: Situation, node: str, reservation_id: UUID, usage: Mapping[BUDGETED, Decimal], now: datetime
) -> tuple[BudgetEvent, ...]:
    if reservation_id not in at.account(node).holds:
        return ()
    said = opened(at.account(node), at.owner(node), node, now)
    account = folded(at.account(node), said)
    resolution = _resolution(account, reservation_id, at.machine_id, usage, now)
    return (*said, resolution, *crossed(folded(account, (resolution,))))


def _resolution(
    account: Account, reservation_id: UUID, machine_id: UUID, usage: Mapping[BUDGETED, Decimal], now: datetime
) -> BudgetSettled | BudgetReleased:
    if not any(usage.values()):
        return BudgetReleased(reservation_id=reservation_id, machine_id=machine_id, reason="nothing was used")
    return BudgetSettled(
        reservation_id=reservation_id,
        machine_id=machine_id,
        lines=_used(account, reservation_id, usage, now),
    )


def _used(account: Account, reservation_id: UUID, usage: Mapping[BUDGETED, Decimal], now: datetime) -> tuple[Line, ...]:
    """Return what was used, in the periods in which it was held, even when they are over."""
    used = drawing(account, reservation_id, usage, now)
    counted = {(line.resource, line.period, line.period_start) for line in used}
    unused = (
        line.model_copy(update={"amount": ZERO})
        for line in account.holds[reservation_id].lines
        if (line.resource, line.period, line.period_start) not in counted
    )
    return (*used, *unused)
