"""Resolving a reservation: settled with what was used, or released when nothing was; on every account in one batch."""

from collections.abc import Mapping
from datetime import datetime
from decimal import Decimal
from uuid import UUID

from domain.budget.account import ZERO, Account, Hold, bounded
from domain.budget.admission import lines
from domain.budget.allocation import crossed, folded, opened
from domain.budget.decision import NOTHING, Decision, Settle, Situation, nonempty
from domain.budget.machine import Standing
from events.budget import BUDGETED, BudgetEvent, BudgetReleased, BudgetSettled, Line


def settle(command: Settle, at: Situation) -> Decision:
    """Resolve what is held for a machine that is over; an account that holds nothing for it has resolved it before."""
    reservation_id = at.machine.reservation_id
    if reservation_id is None or at.machine.standing is not Standing.OVER:
        return NOTHING
    return Decision(
        accounts=nonempty(
            {node: _resolved(at, node, reservation_id, at.machine.usage, command.now) for node in at.path}
        )
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
        lines=_used(account, account.holds[reservation_id], usage, now),
    )


def _used(account: Account, hold: Hold, usage: Mapping[BUDGETED, Decimal], now: datetime) -> tuple[Line, ...]:
    """Return what was used, in the periods in which it was held, even when they are over.

    What was used without being held (calls that nobody asked for) counts now: use is recorded, never hidden.
    """
    held = tuple(line.model_copy(update={"amount": bounded(usage.get(line.resource, ZERO))}) for line in hold.lines)
    resources = {line.resource for line in hold.lines}
    unheld: dict[BUDGETED, Decimal] = {
        resource: amount for resource, amount in usage.items() if amount and resource not in resources
    }
    return (*held, *lines(account, unheld, now))
