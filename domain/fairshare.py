"""Shares by greediness: who may have how much of something scarce, and who is next when some of it is free.

Weighted max-min fairness: nobody's share can be raised without lowering that of somebody who has less for its weight.
What somebody has already (`lower`) cannot be taken back, a guarantee (`floor`) comes before weights, and greediness 0
shares only what nobody else wants. Amounts are whole units (nano-CAD, milli-cores); what does not divide goes to the
largest remainders, so each share is within one unit of the exact one and their sum is exact.

Sources: water-filling, Bertsekas and Gallager, "Data Networks" 6.5.2; dominant shares, Ghodsi et al., "Dominant Resource
Fairness", NSDI 2011.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction

AGEING_PER_S = 0.05 / 600
"""How much greedier one becomes by waiting: 0.05 in ten minutes."""
AGEING_MAX = 0.2
STARVING_S = 2_400.0
"""Whoever has waited for so long cannot age further, and is next whatever its share is: nobody waits for ever."""
EVERYBODY = Fraction(1)
"""The weight in a round in which greediness does not count."""


@dataclass(frozen=True, slots=True)
class Claim:
    """What one of those who share wants, in whole units."""

    id: str
    greediness: Decimal
    demand: int
    """All it would have if there were enough, with what it has already; taken as `lower` when it is less."""
    lower: int = 0
    """What it has: used and reserved."""
    floor: int = 0
    """What it is guaranteed, as far as it wants so much."""
    step: int = 0
    """What it waits for next, all of it or nothing; 0: it waits for nothing."""


@dataclass(frozen=True, slots=True)
class Waiter:
    """Somebody who waits for room."""

    id: str
    greediness: Decimal
    shares: tuple[float, ...] = ()
    """What its project would have of each scarce resource with what it asks: used, reserved and asked, as a part of all.

    With it, not without: else nothing divided by next to nothing would put greediness 0 first as soon as it has waited
    a moment.
    """
    waited_s: float = 0.0
    within: bool = True
    """What it asks lies inside its fair share: `within_share`."""


@dataclass(frozen=True, slots=True)
class _Row:
    """One vessel that is filled: it holds `low` already, at most `high`, and rises by its weight."""

    id: str
    low: int
    high: int
    weight: Fraction


def shares(total: int, claims: Iterable[Claim]) -> dict[str, int]:
    """Return who gets how much of `total`, by id.

    The sum is `total`, yet never less than all `lower` and never more than all demands. Costs a sort by the number
    of claims.
    """
    wants = sorted(claims, key=lambda claim: claim.id)
    has = {claim.id: claim.lower for claim in wants}
    has = _filled(total, [_Row(c.id, has[c.id], min(c.floor, c.demand), EVERYBODY) for c in wants])
    has = _filled(total, [_Row(c.id, has[c.id], c.demand, Fraction(c.greediness)) for c in wants])
    return _filled(total, [_Row(c.id, has[c.id], c.demand, EVERYBODY) for c in wants])


def within_share(who: str, asked: int, claims: Sequence[Claim], total: int) -> bool:
    """Return whether `who` may have `asked` more without keeping another from what is theirs.

    It may inside its own share. Beyond it, it may as long as nobody else waits whose next step lies inside theirs: so
    room that is too small for anybody's share is not left empty.
    """
    return within(who, asked, claims, shares(total, claims))


def within(who: str, asked: int, claims: Iterable[Claim], share: Mapping[str, int]) -> bool:
    """Return what `within_share` does, of shares that are known."""
    by_id = {claim.id: claim for claim in claims}
    has = by_id[who].lower if who in by_id else 0
    if has + asked <= share.get(who, 0):
        return True
    return not any(_is_owed(claim, share) for claim in by_id.values() if claim.id != who)


def moved(before: Mapping[str, int], after: Mapping[str, int], total: int) -> bool:
    """Return whether somebody's share has changed by more than 1 % of all there is."""
    return any(abs(before.get(who, 0) - after.get(who, 0)) * 100 > total for who in before.keys() | after.keys())


def in_order(waiters: Iterable[Waiter]) -> list[Waiter]:
    """Return those who wait, whoever is to be released first at the front.

    First whoever has starved, the longest first; then those whose demand lies inside their share, then all others; among
    them the smallest dominant share for its greediness, which grows by waiting. Of equals the greedier one, then who has
    waited longer, then by id.
    """
    return sorted(waiters, key=_rank)


def aged(greediness: Decimal, waited_s: float) -> float:
    """Return how greedy somebody is after waiting: so that one of greediness 0 is served in the end."""
    return float(greediness) + min(AGEING_MAX, AGEING_PER_S * max(0.0, waited_s))


def _rank(waiter: Waiter) -> tuple[int, float, float, float, str]:
    if waiter.waited_s >= STARVING_S:
        return 0, -waiter.waited_s, 0.0, 0.0, waiter.id
    weight = aged(waiter.greediness, waiter.waited_s)
    dominant = max(waiter.shares, default=0.0)
    weighted = dominant / weight if weight else float("inf")
    return 1 if waiter.within else 2, weighted, -weight, -waiter.waited_s, waiter.id


def _is_owed(claim: Claim, share: Mapping[str, int]) -> bool:
    return claim.step > 0 and claim.lower + claim.step <= share[claim.id]


def _filled(total: int, rows: Sequence[_Row]) -> dict[str, int]:
    """Raise all by their weights until `total` is reached or all are full; whoever has no weight stays as it is."""
    level = _level(total, rows)
    exact = {row.id: _at(row, level) for row in rows}
    whole = {who: int(amount) for who, amount in exact.items()}
    left = max(0, int(sum(exact.values())) - sum(whole.values()))
    by_remainder = sorted(exact, key=lambda who: (whole[who] - exact[who], who))
    for who in by_remainder[:left]:
        whole[who] += 1
    return whole


def _level(total: int, rows: Sequence[_Row]) -> Fraction:
    """Return how high the water stands: at it all have `total` together, or nobody has room any more."""
    turns: list[tuple[Fraction, Fraction]] = []
    for row in rows:
        if row.weight > 0 and row.high > row.low:
            turns += [(row.low / row.weight, row.weight), (row.high / row.weight, -row.weight)]
    level, width, left = Fraction(0), Fraction(0), Fraction(total - sum(row.low for row in rows))
    if left <= 0:
        return level
    for turn, change in sorted(turns):
        if width > 0 and width * (turn - level) >= left:
            return level + left / width
        left -= width * (turn - level)
        level, width = turn, width + change
    return level


def _at(row: _Row, level: Fraction) -> Fraction:
    return min(Fraction(max(row.low, row.high)), max(Fraction(row.low), level * row.weight))
