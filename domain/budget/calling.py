"""Whether a model call may be made, and what becomes of it: decided on the machine's envelope, all of it pure.

Deciding twice gives nothing the second time: an open call is granted as it was, a resolved one is answered as it was.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from decimal import ROUND_FLOOR, Decimal
from uuid import UUID

from domain.budget.account import ZERO, bounded, evolve
from domain.budget.allocation import crossed, opened
from domain.budget.calls import Amounts, Calls, OpenCall, used_by
from domain.budget.decision import nonempty
from domain.budget.envelope import OF_CALLS, Envelope, Obstacle, drawing, extension, obstacle
from domain.budget.refusing import explained
from domain.pricing import UnpricedTool, cost_of, held_cad, in_cad, multiplier_of
from events.budget import UNIT_OF, BudgetDrawn, BudgetEvent, BudgetExceeded, BudgetExtended
from events.call import CallCorrected, CallObserved, CallRefused, CallReserved, CallSettled, CallVoided, Rates, Tokens
from events.ids import HUB
from events.ledger import Call, Granted, NotGranted, Reserve, Settle, Void
from events.machine import MachineEvent, MachineHeld
from events.words import Hold, HoldMode, MachineType, OnExhausted, Resource

CLAMP_FLOOR_TOKENS = 4_096
"""A call is not clamped to fewer output tokens than this, or than it asked for: with less an agent only starts to answer."""
WORDS_MAX = 4_000


def _nothing() -> Amounts:
    return {}


def _everything(_more: Amounts) -> bool:
    return True


def _said() -> Mapping[str, tuple[BudgetEvent, ...]]:
    return {}


@dataclass(frozen=True, slots=True)
class Outcome:
    """What is to be appended, all of it or nothing, and what is answered once it is."""

    answer: Granted | NotGranted | None = None
    """None: reservations stand in the way, so ask again when some have gone."""
    accounts: Mapping[str, tuple[BudgetEvent, ...]] = field(default_factory=_said)
    machine: tuple[MachineEvent, ...] = ()
    wants: Amounts = field(default_factory=_nothing)
    """With no answer: by how much the envelope is too small; nothing where the machine's own open calls will make room."""


@dataclass(frozen=True, slots=True)
class Terms:
    """What a reservation is decided by besides the accounts."""

    now: datetime
    slice_cad: Decimal
    """At least so much is set aside when an envelope is extended, if there is so much."""
    elastic_cad: Decimal
    """How far beyond what is set aside an elastic call may go."""
    out_of_time: bool = False
    """It has waited for as long as it may: nobody else's turn is waited for any more."""
    may_have: Callable[[Amounts], bool] = _everything
    """Whether it is its turn to have so much more set aside; others may wait for it, too."""


@dataclass(frozen=True, slots=True)
class _Case:
    """A reservation that is being decided on."""

    ask: Reserve
    rates: Rates
    at: Envelope
    terms: Terms


def reserve(ask: Reserve, rates: Rates | None, at: Envelope, terms: Terms) -> Outcome:
    """Decide on a call; `rates` None: nobody knows what the model costs."""
    if (known := _known(ask.call_id, at.calls)) is not None:
        return Outcome(known)
    if at.hold is None:
        return Outcome(_no(ask, "fenced", f"nothing is set aside for machine {at.node}: it does not run"))
    if rates is None:
        return Outcome(_no(ask, "unknown_model", _unpriced(ask)))
    case = _Case(ask, rates, at, terms)
    try:
        bound = _bound(ask, ask.output_tokens_max)
        need = _need(rates, bound, ask)
    except UnpricedTool as error:
        return Outcome(_no(ask, "unknown_model", str(error)))
    if _fits(at, need):
        return _granted(case, bound, need, {})
    return _beyond(case, bound, need)


def settle(ask: Settle, machine_type: MachineType | None, at: Calls) -> tuple[BudgetEvent, ...] | None:
    """Resolve a call with what it used; None: nobody knows this call.

    A resolved one gives nothing, unless it was settled by an estimate, as when its gateway was not heard of for too long,
    and now there is somebody who knows better.
    """
    call = at.open.get(ask.call_id)
    if call is None:
        doubtful = at.doubtful.get(ask.call_id)
        if doubtful is not None and not ask.estimated:
            return (_corrected(doubtful.reserved, ask),)
        return () if ask.call_id in at.resolved else None
    reserved = call.reserved
    billing = multiplier_of(ask.service_tier, ask.speed, ask.inference_geo)
    cost = bounded(cost_of(reserved.rates, ask.tokens, ask.server_tools, billing.multiplier))
    notes = (ask.reason, *(f"billed as {unknown}, counted as 1" for unknown in billing.unknown))
    settled = CallSettled(
        call_id=ask.call_id,
        epoch=reserved.epoch,
        machine_type=machine_type,
        provider=reserved.provider,
        model=reserved.model,
        tokens=ask.tokens,
        thinking_tokens=ask.thinking_tokens,
        server_tools=ask.server_tools,
        multiplier=billing.multiplier,
        cost_cad=bounded(in_cad(reserved.rates, cost)),
        cost=cost,
        currency=reserved.rates.currency,
        price_id=reserved.rates.price_id,
        estimated=ask.estimated,
        reason="; ".join(note for note in notes if note)[:WORDS_MAX],
        http_status=ask.http_status,
        request_id=ask.request_id,
        session_id=reserved.session_id,
        stop_reason=ask.stop_reason,
        began_at=ask.began_at,
        ended_at=ask.ended_at,
        first_chunk_ms=ask.first_chunk_ms,
    )
    return (settled, *_exceeded(ask.machine_id, call, settled))


def _corrected(reserved: CallReserved, ask: Settle) -> CallCorrected:
    billing = multiplier_of(ask.service_tier, ask.speed, ask.inference_geo)
    cost = bounded(cost_of(reserved.rates, ask.tokens, ask.server_tools, billing.multiplier))
    return CallCorrected(
        call_id=ask.call_id,
        tokens=ask.tokens,
        cost_cad=bounded(in_cad(reserved.rates, cost)),
        reason="its gateway said what was used after the call had been settled by an estimate",
    )


def void(ask: Void, at: Calls) -> tuple[BudgetEvent, ...]:
    """Resolve a call that came to nothing; one that is resolved already gives nothing.

    One that nobody has reserved is resolved all the same: its reservation may be on its way, and whoever asked for it
    has gone.
    """
    if ask.call_id in at.resolved:
        return ()
    call = at.open.get(ask.call_id)
    epoch = ask.epoch if call is None else call.reserved.epoch
    return (CallVoided(call_id=ask.call_id, epoch=epoch, reason=ask.reason[:WORDS_MAX], http_status=ask.http_status),)


def observe(call_id: UUID, tokens: Tokens, at: Calls) -> tuple[BudgetEvent, ...]:
    call = at.open.get(call_id)
    if call is None or call.observed == tokens:
        return ()
    return (CallObserved(call_id=call_id, tokens=tokens),)


def in_doubt(call: OpenCall, of: Call, since: datetime, now: datetime, reason: str) -> Settle:
    """Return how a call is settled of which nobody knows any more what became of it: with the most it can have used."""
    reserved = call.reserved
    known = call.observed or reserved.bound
    return Settle(
        call_id=reserved.call_id,
        project=of.project,
        machine_id=of.machine_id,
        epoch=reserved.epoch,
        tokens=known.model_copy(update={"output": reserved.bound.output}),
        server_tools=reserved.server_tools,
        estimated=True,
        reason=reason,
        http_status=0,
        began_at=since,
        ended_at=max(since, now),
    )


def draw(at: Envelope, machine_id: UUID, now: datetime, slug: str) -> Mapping[str, tuple[BudgetEvent, ...]]:
    """Move what calls have used from reserved to used on every account of the path; nothing when nothing is undrawn."""
    used: Amounts = {resource: amount for resource, amount in at.calls.undrawn.items() if amount > 0}
    if not used:
        return {}
    said: dict[str, tuple[BudgetEvent, ...]] = {}
    for node, account in at.accounts.items():
        begun = opened(account, HUB if node == HUB else slug, node, now)
        for event in begun:
            account = evolve(account, event)  # noqa: PLW2901 # brought up to now
        drawn = BudgetDrawn(
            reservation_id=at.reservation_id,
            machine_id=machine_id,
            lines=drawing(account, at.reservation_id, used, now),
        )
        said[node] = (*begun, drawn, *crossed(evolve(account, drawn)))
    return said


def _known(call_id: UUID, calls: Calls) -> Granted | NotGranted | None:
    if call_id in calls.open:
        reserved = calls.open[call_id].reserved
        return Granted(
            call_id=call_id, output_tokens_max=reserved.bound.output, held_cad=reserved.held.get(Resource.MONEY, ZERO)
        )
    if call_id in calls.resolved:
        return NotGranted(call_id=call_id, code="cancelled", message="this call has been resolved already")
    return None


def _beyond(case: _Case, bound: Tokens, need: Amounts) -> Outcome:
    """The envelope is too small for the worst case: extend it, wait, ask for less, or say no."""
    at, terms = case.at, case.terms
    short = _short(at, need, later=False)
    if extended := _extended(at, short, terms):
        return _granted(case, bound, need, extended)
    truly = _short(at, need, later=True)
    stands = obstacle(at, truly, terms.now) if truly else None
    waiting = Outcome(wants=short if truly else {})
    if (stands is None or not stands.by_use) and not terms.out_of_time:
        return waiting
    if (less := _less(case)) is not None:
        return less
    if stands is not None and stands.book.on_exhausted is OnExhausted.HOLD and not terms.out_of_time:
        return waiting  # somebody may top it up, or a period end
    return _refused(case, stands or _own_calls(at, short), need)


def _extended(at: Envelope, short: Amounts, terms: Terms) -> Mapping[str, tuple[BudgetEvent, ...]]:
    """Return the extension of the envelope on the whole path, by a slice where that fits; empty: it cannot be had."""
    money = short.get(Resource.MONEY, ZERO)
    generous = {**short, Resource.MONEY: terms.slice_cad} if ZERO < money < terms.slice_cad else short
    for wanted in (generous, short):
        fits = wanted and obstacle(at, wanted, terms.now) is None
        if fits and (terms.out_of_time or terms.may_have(wanted)):
            by_node = extension(at, wanted, terms.now)
            hold = at.hold
            assert hold is not None, "only a machine that is set aside for is extended"
            return {
                node: (BudgetExtended(reservation_id=at.reservation_id, machine_id=hold.machine_id, lines=lines),)
                for node, lines in by_node.items()
            }
    return {}


def _less(case: _Case) -> Outcome | None:
    """A smaller answer that fits what there is, if the call's mode allows one."""
    ask, rates, at = case.ask, case.rates, case.at
    if ask.mode is HoldMode.ELASTIC:
        bound = _bound(ask, ask.output_tokens_max)
        need = _need(rates, bound, ask)
        missing = _short(at, need, later=False)
        if set(missing) == {Resource.MONEY} and missing[Resource.MONEY] <= case.terms.elastic_cad:
            held = {**need, Resource.MONEY: max(ZERO, at.room(Resource.MONEY))}
            return _granted(case, bound, held, {})
    if ask.mode is not HoldMode.CLAMPED:
        return None
    floor = max(1, ask.output_tokens_min, min(CLAMP_FLOOR_TOKENS, ask.output_tokens_max))
    output = _affordable(ask, rates, at)
    if output < floor or output >= ask.output_tokens_max:
        return None
    bound = _bound(ask, output)
    need = _need(rates, bound, ask)
    return _granted(case, bound, need, {}) if _fits(at, need) else None


def _affordable(ask: Reserve, rates: Rates, at: Envelope) -> int:
    """Return how many output tokens fit into the room, with all of the input."""
    none = _need(rates, _bound(ask, 0), ask)
    all_of_it = _need(rates, _bound(ask, ask.output_tokens_max), ask)
    fewest = ask.output_tokens_max
    for resource in OF_CALLS:
        per_output = all_of_it[resource] - none[resource]
        if not at.is_limited(resource) or not per_output:
            continue
        share = (at.room(resource) - none[resource]) * ask.output_tokens_max / per_output
        fewest = min(fewest, int(share.to_integral_value(ROUND_FLOOR)) - 1)
    return fewest


def _granted(case: _Case, bound: Tokens, need: Amounts, extended: Mapping[str, tuple[BudgetEvent, ...]]) -> Outcome:
    ask, at = case.ask, case.at
    reserved = CallReserved(
        call_id=ask.call_id,
        epoch=ask.epoch,
        provider=ask.provider,
        model=ask.model,
        mode=ask.mode,
        bound=bound,
        server_tools=ask.server_tools,
        rates=case.rates,
        held=dict(need),
        session_id=ask.session_id,
    )
    granted = Granted(call_id=ask.call_id, output_tokens_max=bound.output, held_cad=need[Resource.MONEY])
    own = (*extended.get(at.node, ()), reserved)
    return Outcome(granted, nonempty({**extended, at.node: own}))


def _refused(case: _Case, stands: Obstacle, need: Amounts) -> Outcome:
    """Say no, and with `park` hold the machine, in one batch; a machine is held once for each epoch."""
    ask, at = case.ask, case.at
    resource = stands.book.resource
    if stands.node == at.node:  # the account holds the whole envelope; what is left for a call is said
        stands = replace(stands, available=bounded(at.room(resource)))
    action = OnExhausted.REFUSE if stands.book.on_exhausted is OnExhausted.REFUSE else OnExhausted.PARK
    message = explained(ask, at, stands, need, parks=action is OnExhausted.PARK)
    answer = NotGranted(
        call_id=ask.call_id,
        code="exhausted" if stands.by_use else "waited",
        action=action,
        message=message,
        node=stands.node,
        resource=resource,
        unit=UNIT_OF[resource],
        asked=bounded(need[resource]),
        available=stands.available,
    )
    before = at.calls.refused
    if before is not None and (before.epoch, before.resource, before.node) == (ask.epoch, resource, stands.node):
        return Outcome(answer)
    refused = CallRefused(
        call_id=ask.call_id,
        epoch=ask.epoch,
        model=ask.model,
        node=stands.node,
        resource=resource,
        unit=UNIT_OF[resource],
        asked=bounded(need[resource]),
        available=stands.available,
        action=action,
        reason=message,
    )
    held = MachineHeld(epoch=ask.epoch, hold=Hold.BUDGET, reason=message)
    return Outcome(answer, {at.node: (refused,)}, (held,) if action is OnExhausted.PARK else ())


def _own_calls(at: Envelope, short: Amounts) -> Obstacle:
    """The machine's own account as what stands in the way, when only its own open calls do and it has waited enough."""
    resource, asked = next(iter(short.items()))
    book = next((book for (kind, _), book in at.own.books.items() if kind is resource), None)
    assert book is not None, "a machine that holds something has a book of it"
    return Obstacle(at.node, book, asked, bounded(at.room(resource)), by_use=False)


def _short(at: Envelope, need: Amounts, *, later: bool) -> Amounts:
    """Return by how much the room is too small; `later`: when the machine's open calls are all over."""
    found: dict[Resource, Decimal] = {}
    for resource, amount in need.items():
        if at.is_limited(resource):
            room = at.room_later(resource) if later else at.room(resource)
            if amount > room:
                found[resource] = amount - room
    return found


def _fits(at: Envelope, need: Amounts) -> bool:
    return not _short(at, need, later=False)


def _bound(ask: Reserve, output: int) -> Tokens:
    """Return the dearest way in which the call's tokens can be counted."""
    match ask.cache_write:
        case "1h":
            return Tokens(cache_write_1h=ask.input_tokens_max, output=output)
        case "5m":
            return Tokens(cache_write_5m=ask.input_tokens_max, output=output)
        case "none":
            return Tokens(input=ask.input_tokens_max, output=output)


def _need(rates: Rates, bound: Tokens, ask: Reserve) -> Amounts:
    return {
        Resource.MONEY: held_cad(rates, bound, ask.server_tools),
        Resource.TOKENS: Decimal(bound.total),
        Resource.API_CALLS: Decimal(1),
    }


def _exceeded(machine_id: UUID, call: OpenCall, settled: CallSettled) -> tuple[BudgetExceeded, ...]:
    used = used_by(settled)
    return tuple(
        BudgetExceeded(
            machine_id=machine_id, call_id=settled.call_id, resource=resource, amount=bounded(used[resource] - held)
        )
        for resource, held in call.reserved.held.items()
        if used.get(resource, ZERO) > held
    )


def _no(ask: Reserve, code: str, message: str) -> NotGranted:
    return NotGranted.model_validate({"call_id": ask.call_id, "code": code, "message": message[:WORDS_MAX]})


def _unpriced(ask: Reserve) -> str:
    return (
        f"autovibe: nobody knows what model {ask.model[:100]!r} of {ask.provider[:100]!r} costs, so nothing can be set "
        "aside for it; give it a price, or declare it free, in the hub's own prices (AUTOVIBE_PRICES_PATH)"
    )
