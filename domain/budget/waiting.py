"""Model calls that wait for what other machines hold, and parked machines: who is next, and who may not overtake them.

They are ordered as queued machines are: within a project by greediness and age, between projects by fair share of the hub.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from decimal import Decimal
from uuid import UUID

from domain.budget.account import ZERO
from domain.budget.calls import Amounts
from domain.budget.queue import Queue
from domain.budget.shares import Contender
from domain.fairshare import aged, in_order
from events.words import Resource


@dataclass(frozen=True, slots=True)
class WaitingCall:
    """One machine of which a call waits, or asks; or that is parked."""

    slug: str
    machine_id: UUID
    wants: Amounts
    """By how much its envelope is too small; of one that is parked, what it asks for."""
    since: datetime
    greediness: Decimal | None = None
    """The machine's own; None: its project's."""


def in_turn(calls: Sequence[WaitingCall], queue: Queue, now: datetime) -> list[WaitingCall]:
    """Return those who wait, whoever is to be tried first at the front."""
    projects = in_order(queue.use.waiters(_contenders(calls, queue, now)))
    rank = {project.id: number for number, project in enumerate(projects)}
    return sorted(calls, key=lambda call: (rank[call.slug], *_seniority(call, queue, now)))


def may_have(who: WaitingCall, more: Amounts, others: Sequence[WaitingCall], queue: Queue, now: datetime) -> bool:
    """Return whether a call may have so much more set aside while these wait, and the machines in the queue.

    It is next of all of them: the first keeps the room that becomes free, so a large call is not starved by small ones
    that would fit. And it keeps no project whose machines are queued from what is theirs at the hub.
    """
    asked = replace(who, wants=more)
    if others and in_turn([*others, asked], queue, now)[0] is not asked:
        return False
    return queue.may_have(who.slug, dict(more), now)


def _contenders(calls: Sequence[WaitingCall], queue: Queue, now: datetime) -> list[Contender]:
    """Return the projects of these calls, each with what its queued machines want besides."""
    queued = {each.slug: each for each in queue.contenders(now)}
    found: list[Contender] = []
    for slug in dict.fromkeys(call.slug for call in calls):
        own = sorted((call for call in calls if call.slug == slug), key=lambda call: _seniority(call, queue, now))
        beside = queued.get(slug)
        wants: dict[Resource, Decimal] = dict(beside.all) if beside else {}
        for call in own:
            for resource, amount in call.wants.items():
                wants[resource] = wants.get(resource, ZERO) + amount
        waited_s = max((now - call.since).total_seconds() for call in own)
        machines = beside.machines if beside else 0
        found.append(Contender(slug, queue.greediness(slug), dict(own[0].wants), wants, machines, max(0.0, waited_s)))
    return found


def _seniority(call: WaitingCall, queue: Queue, now: datetime) -> tuple[float, datetime, str]:
    """Return how a call stands in its project: the smaller before the greater."""
    greediness = queue.greediness(call.slug) if call.greediness is None else call.greediness
    return -aged(greediness, (now - call.since).total_seconds()), call.since, str(call.machine_id)
