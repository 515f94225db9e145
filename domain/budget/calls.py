"""The model calls of one machine, as its own budget account tells them: open, settled and not yet drawn, spent.

They are folded beside the account (`domain.budget.account`), from the same events: the account knows what is set aside
for the machine on the whole path, this knows how its calls divide that.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from decimal import Decimal
from uuid import UUID

from domain.budget.account import ZERO
from events.base import Event
from events.budget import BUDGETED, BudgetDrawn, BudgetReleased, BudgetSettled
from events.call import CallCorrected, CallObserved, CallRefused, CallReserved, CallSettled, CallVoided, Tokens
from events.words import BudgetPeriod, Resource

RESOLVED_MAX = 512
"""Resolved calls whose answer is remembered; a client that asks later than that asks of an unknown call."""

DOUBTFUL_MAX = 64
"""Calls settled by an estimate that may still be corrected."""

Amounts = Mapping[BUDGETED, Decimal]


@dataclass(frozen=True, slots=True)
class OpenCall:
    """A call that is set aside for and not resolved."""

    reserved: CallReserved
    observed: Tokens | None = None
    """What went in, once the provider has said it."""


def _open() -> Mapping[UUID, OpenCall]:
    return {}


def _resolved() -> Mapping[UUID, Decimal]:
    return {}


@dataclass(frozen=True, slots=True)
class Doubtful:
    """A call that was settled by an estimate."""

    reserved: CallReserved
    tokens: int
    """All that were counted."""


def _doubtful() -> Mapping[UUID, Doubtful]:
    return {}


def _amounts() -> Amounts:
    return {}


@dataclass(frozen=True, slots=True)
class Calls:
    """All of a machine's calls that still matter."""

    open: Mapping[UUID, OpenCall] = field(default_factory=_open)
    resolved: Mapping[UUID, Decimal] = field(default_factory=_resolved)
    """What the newest resolved calls cost in CAD, oldest first; a void one cost 0."""
    doubtful: Mapping[UUID, Doubtful] = field(default_factory=_doubtful)
    """The newest of them that were settled by an estimate: who really knows may still say it."""
    undrawn: Amounts = field(default_factory=_amounts)
    """Used by settled calls and not yet moved from reserved to used on the accounts of the path.

    Below zero after a correction of what was drawn already: then it is there for the next calls.
    """
    spent: Amounts = field(default_factory=_amounts)
    """Used by all calls, over all incarnations."""
    refused: CallRefused | None = None
    """The last refusal."""

    @property
    def held(self) -> Amounts:
        """What the open calls hold together."""
        held: dict[BUDGETED, Decimal] = {}
        for call in self.open.values():
            _add(held, call.reserved.held)
        return held


def used_by(settled: CallSettled) -> Amounts:
    """Return what a settled call used of each resource that is budgeted."""
    return {
        Resource.MONEY: settled.cost_cad,
        Resource.TOKENS: Decimal(settled.tokens.total),
        Resource.API_CALLS: Decimal(1),
    }


def evolve(calls: Calls, event: Event) -> Calls:  # noqa: PLR0911 - one return per event
    """Fold one event of the machine's own account; a call that is resolved stays resolved."""
    match event:
        case CallReserved() if event.call_id not in calls.resolved:
            return replace(calls, open={**calls.open, event.call_id: OpenCall(event)})
        case CallObserved() if event.call_id in calls.open:
            seen = replace(calls.open[event.call_id], observed=event.tokens)
            return replace(calls, open={**calls.open, event.call_id: seen})
        case CallSettled() if event.call_id not in calls.resolved:
            used = used_by(event)
            return replace(
                _resolve(calls, event.call_id, event.cost_cad),
                doubtful=_doubted(calls, event),
                undrawn=_sum(calls.undrawn, used),
                spent=_sum(calls.spent, used),
            )
        case CallVoided() if event.call_id not in calls.resolved:
            return _resolve(calls, event.call_id, ZERO)
        case CallCorrected() if event.call_id in calls.resolved:
            return _corrected(calls, event)
        case CallRefused():
            return replace(calls, refused=event)
        case BudgetDrawn():
            return replace(calls, undrawn=_less(calls.undrawn, event))
        case BudgetSettled() | BudgetReleased():
            return replace(calls, undrawn={})
        case _:
            return calls


def _resolve(calls: Calls, call_id: UUID, cost: Decimal) -> Calls:
    still = {other: call for other, call in calls.open.items() if other != call_id}
    resolved = {**calls.resolved, call_id: cost}
    while len(resolved) > RESOLVED_MAX:
        del resolved[next(iter(resolved))]
    return replace(calls, open=still, resolved=resolved)


def _doubted(calls: Calls, event: CallSettled) -> Mapping[UUID, Doubtful]:
    call = calls.open.get(event.call_id)
    if not event.estimated or call is None:
        return calls.doubtful
    newest = [*calls.doubtful.items(), (event.call_id, Doubtful(call.reserved, event.tokens.total))]
    return dict(newest[-DOUBTFUL_MAX:])


def _corrected(calls: Calls, event: CallCorrected) -> Calls:
    change = {Resource.MONEY: event.cost_cad - calls.resolved[event.call_id]}
    if (counted := calls.doubtful.get(event.call_id)) is not None:
        change[Resource.TOKENS] = Decimal(event.tokens.total - counted.tokens)
    return replace(
        calls,
        resolved={**calls.resolved, event.call_id: event.cost_cad},
        doubtful={other: call for other, call in calls.doubtful.items() if other != event.call_id},
        undrawn=_sum(calls.undrawn, change),
        spent=_sum(calls.spent, change),
    )


def _less(undrawn: Amounts, drawn: BudgetDrawn) -> Amounts:
    taken: dict[BUDGETED, Decimal] = {}
    for line in drawn.lines:
        if line.period is BudgetPeriod.TOTAL:
            taken[line.resource] = taken.get(line.resource, ZERO) - line.amount
    return {resource: amount for resource, amount in _sum(undrawn, taken).items() if amount}


def _sum(one: Mapping[Resource, Decimal], other: Mapping[Resource, Decimal]) -> Amounts:
    summed: dict[BUDGETED, Decimal] = dict(one)
    _add(summed, other)
    return summed


def _add(to: dict[BUDGETED, Decimal], amounts: Mapping[Resource, Decimal]) -> None:
    for resource, amount in amounts.items():
        to[resource] = to.get(resource, ZERO) + amount
