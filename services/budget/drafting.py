"""What becomes of a machine's commands: each decided on what the ones before it leave, nothing appended yet."""

import time
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime
from functools import partial
from typing import assert_never
from uuid import UUID

from domain.budget import Standing
from domain.budget.account import ZERO
from domain.budget.calling import Outcome, Terms, draw, in_doubt, observe, reserve, settle, void
from domain.budget.calls import Amounts
from domain.budget.waiting import WaitingCall
from events.address import Address
from events.call import CallCorrected, CallSettled
from events.ledger import AskPrice, Call, Granted, NotGranted, Observe, Reserve, Settle, Settled, Void
from events.words import Resource
from services.budget.mailbox import Asked, Draft, Draw, Expire, UnknownCall
from services.budget.prices import PriceBook
from services.budget.purses import Path
from services.budget.settings import BudgetSettings

MayHave = Callable[[Address, WaitingCall, Amounts], bool]
"""Whether it is a call's turn to have so much more set aside for its machine."""


class Drafter:
    """Decides; it has no state of its own."""

    def __init__(
        self, prices: PriceBook, settings: BudgetSettings, may_have: MayHave, now: Callable[[], datetime]
    ) -> None:
        self._prices = prices
        self._settings = settings
        self._may_have = may_have
        self._now = now

    async def draft(self, path: Path, asked: list[Asked]) -> Draft:
        """Decide one after the other, each on what the ones before it leave."""
        draft = Draft(path)
        for each in asked:
            await self._decide_one(draft.path, each, draft)
            draft.advance()
        return draft

    async def _decide_one(self, path: Path, each: Asked, draft: Draft) -> None:
        node, calls = path.where.id, path.own.calls
        match each.command:
            case Reserve() as ask:
                await self._reserve(path, each, ask, draft)
            case Observe() as ask:
                draft.put(node, observe(ask.call_id, ask.tokens, calls))
                draft.answers.append((each, None))
            case Void() as ask:
                self._void(path, each, ask, draft)
            case Settle() as ask:
                self._settle(path, each, ask, draft)
            case Expire(call_id=call_id, reason=reason, since=since):
                if (call := calls.open.get(call_id)) is None:
                    draft.answers.append((each, None))
                    return
                of = Call(
                    call_id=call_id,
                    project=path.where.project,
                    machine_id=UUID(node),
                    epoch=call.reserved.epoch,
                )
                self._settle(path, each, in_doubt(call, of, since, self._now(), reason), draft)
            case Draw():
                envelope = path.envelope(self._settings.tariff)
                said = draw(envelope, UUID(node), self._now(), path.where.project)
                for account, events in said.items():
                    draft.put(account, events)
                draft.answers.append((each, None))
            case _:
                assert_never(each.command)

    async def _reserve(self, path: Path, each: Asked, ask: Reserve, draft: Draft) -> None:
        if not _runs(path, ask.epoch):
            message = f"epoch {ask.epoch} of machine {ask.machine_id} does not run"
            draft.is_certain = False
            draft.answers.append((each, NotGranted(call_id=ask.call_id, code="fenced", message=message)))
            return
        priced = await self._prices.lookup(
            AskPrice(provider=ask.provider, model=ask.model, speed=ask.speed), self._now()
        )
        request = path.machine.request
        who = WaitingCall(
            path.where.project, ask.machine_id, {}, each.since, request.greediness if request is not None else None
        )
        terms = Terms(
            self._now(),
            self._settings.slice_cad,
            self._settings.elastic_cad,
            out_of_time=each.until <= time.monotonic(),
            may_have=partial(self._may_have, path.where, who),
        )
        outcome: Outcome = reserve(ask, priced.rates, path.envelope(self._settings.tariff), terms)
        if not isinstance(outcome.answer, Granted):
            draft.is_certain = False
        if outcome.answer is None:
            each.waits = replace(who, wants=outcome.wants) if outcome.wants else None
            draft.waits.append(each)
            return
        for node, events in outcome.accounts.items():
            draft.put(node, events)
        draft.machine += outcome.machine
        draft.answers.append((each, outcome.answer))

    def _void(self, path: Path, each: Asked, ask: Void, draft: Draft) -> None:
        """Void a call, also before its reservation has arrived; of an incarnation that is over nothing arrives any more."""
        if ask.call_id in path.own.calls.open or _runs(path, ask.epoch):
            draft.put(path.where.id, void(ask, path.own.calls))
        else:
            draft.is_certain = False
        draft.answers.append((each, None))

    def _settle(self, path: Path, each: Asked, ask: Settle, draft: Draft) -> None:
        request = path.machine.request
        said = settle(ask, request.machine_type if request else None, path.own.calls)
        if said is None:
            draft.answers.append((each, UnknownCall(f"nobody has reserved call {ask.call_id}")))
            draft.is_certain = False
            return
        draft.put(path.where.id, said)
        calls = path.own.calls
        before, spent = calls.resolved.get(ask.call_id, ZERO), calls.spent.get(Resource.MONEY, ZERO)
        cost = next((each.cost_cad for each in said if isinstance(each, CallSettled | CallCorrected)), before)
        spent += cost - before
        draft.answers.append((each, Settled(call_id=ask.call_id, cost_cad=cost, spent_cad=spent)))


def _runs(path: Path, epoch: int) -> bool:
    return path.machine.standing is Standing.ADMITTED and epoch == path.machine.epoch
