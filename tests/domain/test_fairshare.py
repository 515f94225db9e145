"""Shares by greediness: the worked example, and what holds for every allocation."""

from dataclasses import replace
from decimal import Decimal
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from domain.fairshare import AGEING_MAX, STARVING_S, Claim, Waiter, aged, in_order, moved, shares, within_share

A = Claim("a", Decimal(1), 80_000)
B = Claim("b", Decimal("0.5"), 60_000)
C = Claim("c", Decimal("0.25"), 10_000)
D = Claim("d", Decimal(0), 20_000)
EXAMPLES = {
    "start": (100_000, (A, B, C, D), (60_000, 30_000, 10_000, 0)),
    "a and b want less": (
        100_000,
        (replace(A, demand=40_000), replace(B, demand=30_000), C, D),
        (40_000, 30_000, 10_000, 20_000),
    ),
    "d is guaranteed 5": (100_000, (A, B, C, replace(D, floor=5_000)), (56_667, 28_333, 10_000, 5_000)),
    "b has 45": (100_000, (A, replace(B, lower=45_000), C, D), (45_000, 45_000, 10_000, 0)),
    "over-committed": (50_000, (replace(A, lower=30_000), replace(B, lower=25_000), C, D), (30_000, 25_000, 0, 0)),
}


@pytest.mark.parametrize(("total", "claims", "expected"), EXAMPLES.values(), ids=EXAMPLES)
def test_the_worked_example(total: int, claims: tuple[Claim, ...], expected: tuple[int, ...]) -> None:
    assert tuple(shares(total, claims).values()) == expected


AMOUNTS = st.integers(0, 1_000)
TOTALS = st.integers(0, 4_000)


@st.composite
def _claims(draw: st.DrawFn) -> list[Claim]:
    many = draw(st.integers(1, 6))
    greediness = st.sampled_from(["0", "0.01", "0.25", "0.33", "0.5", "1"]).map(Decimal)
    has = st.one_of(st.just(0), AMOUNTS)
    found = [Claim(f"p{n}", draw(greediness), draw(AMOUNTS), draw(has), draw(has)) for n in range(many)]
    return [replace(claim, demand=max(claim.demand, claim.lower)) for claim in found]


CLAIMS = _claims()


def guaranteed(claim: Claim) -> int:
    return max(claim.lower, min(claim.floor, claim.demand))


@given(TOTALS, CLAIMS)
def test_nobody_gets_less_than_it_has_or_more_than_it_wants(total: int, claims: list[Claim]) -> None:
    got = shares(total, claims)
    assert all(claim.lower <= got[claim.id] <= claim.demand for claim in claims)


@given(TOTALS, CLAIMS)
def test_exactly_all_there_is_is_shared(total: int, claims: list[Claim]) -> None:
    least, most = sum(claim.lower for claim in claims), sum(claim.demand for claim in claims)
    assert sum(shares(total, claims).values()) == max(least, min(total, most))


@given(TOTALS, CLAIMS)
def test_whoever_wants_more_has_no_less_for_its_weight_than_anybody_who_was_given_something(
    total: int, claims: list[Claim]
) -> None:
    got = shares(total, claims)
    for poor in claims:
        for rich in claims:
            given_more = got[rich.id] > guaranteed(rich) and poor.greediness > 0 and rich.greediness > 0
            if given_more and got[poor.id] < poor.demand:
                owed = Decimal(got[rich.id] - 1) * poor.greediness / rich.greediness
                assert got[poor.id] + 1 >= owed


@given(TOTALS, CLAIMS)
def test_greediness_0_gets_nothing_while_somebody_else_wants_some(total: int, claims: list[Claim]) -> None:
    got = shares(total, claims)
    if any(got[claim.id] < claim.demand for claim in claims if claim.greediness > 0):
        assert all(got[claim.id] <= guaranteed(claim) for claim in claims if claim.greediness == 0)


@given(TOTALS, CLAIMS)
def test_a_guarantee_is_kept_when_there_is_enough_for_all_of_them(total: int, claims: list[Claim]) -> None:
    if sum(guaranteed(claim) for claim in claims) <= total:
        got = shares(total, claims)
        assert all(got[claim.id] >= guaranteed(claim) for claim in claims)


@given(TOTALS, st.integers(0, 500), CLAIMS)
def test_more_to_share_lowers_no_share(total: int, more: int, claims: list[Claim]) -> None:
    before, after = shares(total, claims), shares(total + more, claims)
    assert all(after[claim.id] >= before[claim.id] - 1 for claim in claims)


@given(TOTALS, CLAIMS, st.sampled_from(["0.01", "0.5", "1"]).map(Decimal))
def test_being_greedier_does_not_lower_the_own_share(total: int, claims: list[Claim], greediness: Decimal) -> None:
    own, *others = claims
    greedier = replace(own, greediness=max(own.greediness, greediness))
    assert shares(total, [greedier, *others])[own.id] >= shares(total, claims)[own.id] - 1


@given(TOTALS, CLAIMS, AMOUNTS)
def test_whoever_does_not_get_what_it_wants_gets_no_more_by_asking_for_more(
    total: int, claims: list[Claim], more: int
) -> None:
    own, *others = claims
    before = shares(total, claims)[own.id]
    after = shares(total, [replace(own, demand=own.demand + more, floor=min(own.floor, own.demand)), *others])[own.id]
    if before < own.demand:
        assert after <= before + 1


@given(TOTALS, CLAIMS, st.randoms())
def test_the_order_of_the_claims_does_not_matter(total: int, claims: list[Claim], random: Random) -> None:
    shuffled = list(claims)
    random.shuffle(shuffled)
    assert shares(total, shuffled) == shares(total, claims)


@given(TOTALS, CLAIMS, st.sampled_from([2, 3, 10]))
def test_only_the_ratios_of_greediness_matter(total: int, claims: list[Claim], times: int) -> None:
    scaled = [replace(claim, greediness=claim.greediness * times) for claim in claims]
    assert shares(total, scaled) == shares(total, claims)


def test_within_the_own_share_one_may_and_beyond_it_only_while_nobody_is_owed_anything() -> None:
    rich = Claim("rich", Decimal(1), 80, lower=60, step=10)
    poor = Claim("poor", Decimal(1), 40, lower=30, step=10)
    claims = (rich, poor)
    assert within_share("poor", 10, claims, 100)
    assert not within_share("rich", 10, claims, 100)
    assert within_share("rich", 10, (rich, replace(poor, step=0)), 100)
    assert within_share("rich", 10, (rich, replace(poor, step=11)), 100), "what it asks next is beyond its share too"


def test_a_share_has_moved_when_it_changed_by_more_than_one_in_a_hundred_of_all_there_is() -> None:
    assert not moved({"a": 500}, {"a": 510}, 1_000)
    assert moved({"a": 500}, {"a": 511}, 1_000)
    assert moved({}, {"a": 11}, 1_000)
    assert moved({"a": 11}, {}, 1_000)


def test_whoever_has_least_for_its_greediness_is_next() -> None:
    greedy = Waiter("greedy", Decimal(1), (0.5, 0.1))
    modest = Waiter("modest", Decimal("0.25"), (0.1, 0.2))
    assert [each.id for each in in_order((modest, greedy))] == ["greedy", "modest"]
    assert [each.id for each in in_order((modest, replace(greedy, shares=(0.9, 0.1))))] == ["modest", "greedy"]


def test_whoever_asks_beyond_its_share_stands_behind_until_it_starves() -> None:
    beyond = Waiter("beyond", Decimal(1), (0.0,), within=False)
    inside = Waiter("inside", Decimal("0.01"), (0.9,))
    assert [each.id for each in in_order((beyond, inside))] == ["inside", "beyond"]
    starved = replace(beyond, waited_s=STARVING_S)
    assert [each.id for each in in_order((inside, starved))] == ["beyond", "inside"]


def test_greediness_0_is_last_until_it_has_waited() -> None:
    nothing = Waiter("nothing", Decimal(0), (0.1,))
    full = Waiter("full", Decimal("0.5"), (0.9,))
    assert [each.id for each in in_order((nothing, full))] == ["full", "nothing"]
    assert [each.id for each in in_order((replace(nothing, waited_s=1_200.0), full))] == ["nothing", "full"]


def test_ageing_ends() -> None:
    assert aged(Decimal(0), 600.0) == pytest.approx(0.05)
    assert aged(Decimal("0.5"), 1e9) == 0.5 + AGEING_MAX
    assert aged(Decimal("0.5"), -1.0) == 0.5


def test_of_equals_the_greedier_is_first_then_who_waits_longer_then_by_id() -> None:
    waiters = [
        Waiter("b", Decimal("0.5"), waited_s=1.0),
        Waiter("a", Decimal("0.5"), waited_s=1.0),
        Waiter("old", Decimal("0.5"), waited_s=2.0),
        Waiter("greedy", Decimal(1)),
    ]
    assert [each.id for each in in_order(waiters)] == ["greedy", "old", "a", "b"]
