"""What each project has of the hub's account, and how what is scarce there is shared by greediness.

Scarce is every capped book of the hub's account in its present period, and the number of machines that may hold a
reservation at once. What a project has counts in the period in which the hub counts it.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from uuid import UUID

from domain.budget.account import ZERO, Account, PastKey, bounded, evolve
from domain.fairshare import Claim, Waiter, moved, shares, within
from events.base import Event
from events.budget import BudgetDrawn, BudgetExtended, BudgetReleased, BudgetReserved, BudgetSettled, SharesRebalanced
from events.words import Resource

NANO = 1_000_000_000
PROJECTS_MAX = 1_000
"""As many shares as one SharesRebalanced can name; beyond that nothing is said, while shares hold all the same."""
Wants = Mapping[Resource, Decimal]
_Moved = BudgetReserved | BudgetExtended | BudgetDrawn | BudgetSettled | BudgetReleased


@dataclass(frozen=True, slots=True)
class Contender:
    """A project of which somebody waits for room at the hub."""

    slug: str
    greediness: Decimal
    next: Wants
    """What the first of those who wait there is to have."""
    all: Wants
    """What all of them are to have."""
    machines: int
    """How many they are."""
    waited_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Scarce:
    """One thing of which the hub has so much and no more, in billionths; so a share may be a part of a machine."""

    resource: Resource | None
    """None: machines."""
    total: int
    has: Mapping[str, int]
    """What is used and reserved, by project."""
    book: PastKey | None = None

    def claims(self, contenders: Iterable[Contender]) -> list[Claim]:
        """Return what they want of this; whoever does not wait is not among them."""
        return [self._claim(each) for each in contenders]

    def shares(self, claims: Sequence[Claim]) -> dict[str, int]:
        """Return what each of those who want some may have, besides what all others have."""
        those = {claim.id for claim in claims}
        others = sum(amount for slug, amount in self.has.items() if slug not in those)
        return shares(max(0, self.total - others), claims)

    def is_contested(self, claims: Sequence[Claim]) -> bool:
        """Whether there is too little for everybody."""
        more = sum(claim.demand - claim.lower for claim in claims)
        return sum(self.has.values()) + more > self.total

    def part(self, claim: Claim) -> float:
        """Return what somebody would have of all there is, had it what it waits for next."""
        return (claim.lower + claim.step) / self.total if self.total else 0.0

    def _claim(self, each: Contender) -> Claim:
        has = self.has.get(each.slug, 0)
        if self.resource is None:
            wants = each.machines * NANO
            return Claim(each.slug, each.greediness, has + wants, has, step=min(wants, NANO))
        wants, step = units(each.all.get(self.resource, ZERO)), units(each.next.get(self.resource, ZERO))
        return Claim(each.slug, each.greediness, has + wants, has, step=step)


class Use:
    """What projects have of the hub's account, folded in place from its history and from who was admitted."""

    def __init__(self, machines_max: int) -> None:
        self.hub = Account()
        self._machines_max = machines_max
        self._slugs: dict[UUID, str] = {}
        """The project of each machine that was admitted and holds something."""
        self._has: dict[PastKey, dict[str, Decimal]] = {}
        self._machines: dict[str, int] = {}

    def admitted(self, slug: str, machine_id: UUID) -> None:
        """Hear that a machine was admitted: what the hub's account says of it from now on is its project's."""
        self._slugs[machine_id] = slug

    def hear(self, event: Event) -> None:
        """Fold one event of the hub's account, in the log's order."""
        before, self.hub = self.hub, evolve(self.hub, event)
        if isinstance(event, _Moved) and (slug := self._slugs.get(event.machine_id)) is not None:
            self._move(slug, event, before)
        current = {book.past_key for book in self.hub.books.values()}
        if len(self._has) > len(current):
            self._has = {key: has for key, has in self._has.items() if key in current}

    def scarce(self) -> list[Scarce]:
        """Return all of which the hub has only so much now."""
        found = [
            Scarce(
                book.resource,
                units(book.allocated),
                {slug: units(amount) for slug, amount in self._has.get(book.past_key, {}).items()},
                book.past_key,
            )
            for book in self.hub.books.values()
            if book.allocated is not None
        ]
        machines = {slug: count * NANO for slug, count in self._machines.items()}
        return [*found, Scarce(None, self._machines_max * NANO, machines)]

    def waiters(self, contenders: Sequence[Contender]) -> list[Waiter]:
        """Return the contenders as they stand in the order of release."""
        beyond: set[str] = set()
        parts: dict[str, list[float]] = {each.slug: [] for each in contenders}
        for each in self.scarce():
            claims = each.claims(contenders)
            share = each.shares(claims) if each.is_contested(claims) else None
            for claim in claims:
                parts[claim.id].append(each.part(claim))
                if share is not None and not within(claim.id, claim.step, claims, share):
                    beyond.add(claim.id)
        return [
            Waiter(each.slug, each.greediness, tuple(parts[each.slug]), each.waited_s, each.slug not in beyond)
            for each in contenders
        ]

    def may_have(self, slug: str, more: Wants, contenders: Sequence[Contender], greediness: Decimal) -> bool:
        """Return whether a project may set aside so much more while others wait at the hub.

        It may inside its share, and beyond it as long as nobody else is kept from what is theirs.
        """
        others = [each for each in contenders if each.slug != slug]
        own = next((each for each in contenders if each.slug == slug), None)
        if not others:
            return True
        asked = Contender(
            slug,
            greediness,
            more,
            {resource: more.get(resource, ZERO) + (own.all.get(resource, ZERO) if own else ZERO) for resource in more},
            own.machines if own else 0,
        )
        for each in self.scarce():
            claims = each.claims([asked, *others])
            step = units(more.get(each.resource, ZERO)) if each.resource else 0
            if step and each.is_contested(claims) and not within(slug, step, claims, each.shares(claims)):
                return False
        return True

    def _move(self, slug: str, event: _Moved, before: Account) -> None:
        """Count what this changed of used and reserved together, whatever was moved from one to the other."""
        held, holds = before.holds.get(event.reservation_id), self.hub.holds.get(event.reservation_id)
        for sign, lines in ((-1, held.lines if held else ()), (1, holds.lines if holds else ())):
            for line in lines:
                self._add(slug, (line.resource, line.period, line.period_start), sign * line.amount)
        if isinstance(event, BudgetSettled | BudgetDrawn):
            for line in event.lines:
                self._add(slug, (line.resource, line.period, line.period_start), line.amount)
        change = (holds is not None) - (held is not None)
        self._machines[slug] = self._machines.get(slug, 0) + change
        if not self._machines[slug]:
            del self._machines[slug]
        if holds is None:
            self._slugs.pop(event.machine_id, None)

    def _add(self, slug: str, key: PastKey, amount: Decimal) -> None:
        has = self._has.setdefault(key, {})
        has[slug] = has.get(slug, ZERO) + amount


def rebalanced(hub: Account, scarce: Iterable[Scarce], contenders: Sequence[Contender]) -> tuple[SharesRebalanced, ...]:
    """Return the shares to be said on the hub's account, which are those that moved by more than 1 % of all there is.

    Of what is not contested, and of machines, nothing is said; what was said already is not said again.
    """
    said: list[SharesRebalanced] = []
    for each in scarce:
        claims = each.claims(contenders)
        if each.book is None or each.resource is None or len(claims) > PROJECTS_MAX or not each.is_contested(claims):
            continue
        share = each.shares(claims)
        known = hub.shares.get(each.book, {})
        if moved({slug: units(amount) for slug, amount in known.items()}, share, each.total):
            _, period, start = each.book
            said.append(
                SharesRebalanced(
                    resource=each.resource,
                    period=period,
                    period_start=start,
                    allocated=amount_of(each.total),
                    shares={slug: bounded(amount_of(units_)) for slug, units_ in share.items()},
                )
            )
    return tuple(said)


def units(amount: Decimal) -> int:
    """Return an amount in the smallest part that an event can say."""
    return int(amount * NANO)


def amount_of(whole: int) -> Decimal:
    return Decimal(whole) / NANO
