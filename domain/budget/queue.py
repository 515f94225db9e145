"""Who waits: the machines that are queued, over all projects, and who of them is next.

Within a project the greediest machine is first, of equals the oldest; while it waits for room on its project's account,
nobody of the project gets that. Of the firsts of all projects that wait for room at the hub, the order is that of
`domain.fairshare`: whoever has least of what is scarce for its greediness. The first of all keeps the room that becomes
free, so a large request is not starved by small ones that would fit; and a project that has not been served for long
is first whatever it has. Waiting makes greedier: a machine within its project since it came, a project at the hub since
it was last served.
"""

from collections.abc import Container, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from uuid import UUID

from domain.budget.account import ZERO, Account
from domain.budget.shares import Contender, Use, Wants, rebalanced
from domain.fairshare import aged, in_order
from events.address import Address
from events.base import Event
from events.budget import BudgetEvent, SharesRebalanced
from events.ids import HUB
from events.machine import MachineAdmitted, MachineDenied, MachineEnded, MachineQueued
from events.project import ProjectCreated, ProjectUpdated
from events.words import Resource

GREEDINESS = Decimal("0.50")
"""Of a project of which nothing else is known."""


@dataclass(frozen=True, slots=True)
class Waiting:
    """One queued machine."""

    slug: str
    machine_id: UUID
    queued: MachineQueued
    """What stood in its way when it was last tried."""
    since: datetime
    """When it was first queued."""


def _totals() -> dict[Resource, Decimal]:
    return {}


def _lanes() -> dict[Decimal | None, dict[str, None]]:
    return {}


@dataclass(slots=True)
class _Project:
    """Those of one project who wait."""

    lanes: dict[Decimal | None, dict[str, None]] = field(default_factory=_lanes)
    """By greediness, each in the order in which they came; so the oldest of a lane is its first."""
    wants: dict[Resource, Decimal] = field(default_factory=_totals)
    count: int = 0


class Queue:
    """The line, folded in place: who is next is answered without walking it, however many wait."""

    def __init__(self, machines_max: int) -> None:
        """`machines_max`: how many machines may hold a reservation at once, over all projects."""
        self.waiting: dict[str, Waiting] = {}
        """By machine id, in the order in which they first came."""
        self.use = Use(machines_max)
        self._arrivals: dict[str, int] = {}
        self._arrived = 0
        self._projects: dict[str, _Project] = {}
        self._greediness: dict[str, Decimal] = {}
        self._served: dict[str, datetime] = {}
        """When somebody of a project was last admitted, of projects of which somebody waits."""

    def hear(self, address: Address, event: Event, at: datetime) -> None:
        """Fold one event, in the log's order; what is not about waiting, shares or greediness changes nothing."""
        match event:
            case MachineQueued():
                known = self.waiting.get(address.id)
                self._put(Waiting(address.project, UUID(address.id), event, known.since if known else at), address.id)
            case MachineAdmitted():
                self.use.admitted(address.project, UUID(address.id))
                self._take(address.id)
                if address.project in self._projects:
                    self._served[address.project] = at
            case MachineDenied() | MachineEnded():
                self._take(address.id)
            case ProjectCreated() | ProjectUpdated() if event.greediness is not None:
                self._greediness[address.id] = event.greediness
            case BudgetEvent() if address.id == HUB:
                self.use.hear(event)
            case _:
                pass

    def ahead_of(self, who: Waiting, now: datetime, avoid: Container[str] = ()) -> Waiting | None:
        """Return who stands before a machine, queued or just come: one of its own project first, else one at the hub.

        Args:
            avoid: Ids of those who cannot be tried, and so hold up nobody.
        """
        first = self._first(who.slug, now, avoid)
        if first is not None and first.machine_id != who.machine_id and not self._precedes(who, first, now):
            return first
        heads = [head for head in self._heads(now, avoid) if head.slug != who.slug]
        if not heads:
            return None
        best = self._in_order([*heads, who], now)[0]
        return None if best is who else best

    def firsts(self, now: datetime, avoid: Container[str] = ()) -> list[Waiting]:
        """Return those who are to be tried: the first of each project that waits for its own, and who is next at the hub."""
        firsts = [first for slug in self._projects if (first := self._first(slug, now, avoid)) is not None]
        at_hub = [first for first in firsts if first.queued.node == HUB]
        return [*(first for first in firsts if first.queued.node != HUB), *self._in_order(at_hub, now)[:1]]

    def count(self, slug: str) -> int:
        """Return how many machines of a project wait."""
        project = self._projects.get(slug)
        return project.count if project else 0

    def greediness(self, slug: str) -> Decimal:
        return self._greediness.get(slug, GREEDINESS)

    def contenders(self, now: datetime) -> list[Contender]:
        """Return the projects of which somebody waits for room at the hub."""
        return [self._contender(head, now) for head in self._heads(now)]

    def may_have(self, slug: str, more: Wants, now: datetime) -> bool:
        """Return whether a project may set aside so much more at the hub: within its share, or nobody is kept from theirs."""
        return self.use.may_have(slug, more, self.contenders(now), self.greediness(slug))

    def rebalanced(self, now: datetime, hub: Account | None = None) -> tuple[SharesRebalanced, ...]:
        """Return the shares of the hub's account that have moved since they were last said.

        Args:
            hub: The account as it is, where that is known better than it was heard.
        """
        return rebalanced(hub or self.use.hub, self.use.scarce(), self.contenders(now))

    def _put(self, waiting: Waiting, who: str) -> None:
        before = self.waiting.get(who)
        self.waiting[who] = waiting
        project = self._projects.setdefault(waiting.slug, _Project())
        _add(project.wants, waiting.queued.wants, 1)
        if before is not None:
            _add(project.wants, before.queued.wants, -1)
        else:
            self._arrivals[who] = self._arrived
            self._arrived += 1
            project.lanes.setdefault(waiting.queued.greediness, {})[who] = None
            project.count += 1

    def _take(self, who: str) -> None:
        waiting = self.waiting.pop(who, None)
        if waiting is None:
            return
        del self._arrivals[who]
        project = self._projects[waiting.slug]
        lane = project.lanes[waiting.queued.greediness]
        del lane[who]
        if not lane:
            del project.lanes[waiting.queued.greediness]
        _add(project.wants, waiting.queued.wants, -1)
        project.count -= 1
        if not project.count:
            del self._projects[waiting.slug]
            self._served.pop(waiting.slug, None)

    def _heads(self, now: datetime, avoid: Container[str] = ()) -> Iterator[Waiting]:
        """Yield the first of each project, where that waits for room at the hub."""
        for slug in self._projects:
            first = self._first(slug, now, avoid)
            if first is not None and first.queued.node == HUB:
                yield first

    def _first(self, slug: str, now: datetime, avoid: Container[str]) -> Waiting | None:
        project = self._projects.get(slug)
        first: Waiting | None = None
        for lane in project.lanes.values() if project else ():
            oldest = next((who for who in lane if who not in avoid), None)
            if oldest is not None and (first is None or self._precedes(self.waiting[oldest], first, now)):
                first = self.waiting[oldest]
        return first

    def _precedes(self, one: Waiting, other: Waiting, now: datetime) -> bool:
        """Whether one stands before another of the same project: it is greedier, or as greedy and came earlier."""
        mine, theirs = self._greed(one, now), self._greed(other, now)
        if one.queued.greediness == other.queued.greediness or mine == theirs:
            return self._arrival(one) < self._arrival(other)
        return mine > theirs

    def _greed(self, waiting: Waiting, now: datetime) -> float:
        own = waiting.queued.greediness
        greediness = self.greediness(waiting.slug) if own is None else own
        return aged(greediness, (now - waiting.since).total_seconds())

    def _arrival(self, waiting: Waiting) -> int:
        return self._arrivals.get(str(waiting.machine_id), self._arrived)

    def _in_order(self, heads: list[Waiting], now: datetime) -> list[Waiting]:
        """Return the first machines of different projects, whoever is next at the hub at the front."""
        by_slug = {head.slug: head for head in heads}
        order = in_order(self.use.waiters([self._contender(head, now) for head in heads]))
        return [by_slug[each.id] for each in order]

    def _contender(self, head: Waiting, now: datetime) -> Contender:
        project = self._projects.get(head.slug) or _Project()
        wants, machines = dict(project.wants), project.count
        if str(head.machine_id) not in self.waiting:
            _add(wants, head.queued.wants, 1)
            machines += 1
        since = max(head.since, self._served.get(head.slug, head.since))
        waited_s = max(0.0, (now - since).total_seconds())
        return Contender(head.slug, self.greediness(head.slug), head.queued.wants, wants, machines, waited_s)


def behind(ahead: Waiting, slug: str, wants: Wants, greediness: Decimal | None) -> MachineQueued:
    """Return what is said of a machine that waits because another one stands before it.

    It waits where the other one does: at the hub, or for its project.
    """
    return MachineQueued(
        hold=ahead.queued.hold,
        node=HUB if ahead.queued.node == HUB else slug,
        resource=ahead.queued.resource,
        wants=dict(wants),
        greediness=greediness,
    )


def _add(to: dict[Resource, Decimal], wants: Wants, sign: int) -> None:
    for resource, amount in wants.items():
        to[resource] = to.get(resource, ZERO) + sign * amount
