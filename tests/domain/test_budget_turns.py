"""What is added to a period, what it leaves to the next, and how reservations grow and are drawn."""

from dataclasses import replace
from datetime import timedelta
from decimal import Decimal
from typing import cast
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from domain.budget.account import Account, Book, evolve
from domain.budget.turn import next_period
from domain.periods import TOTAL_START, span_at
from events import address
from events.address import Address
from events.budget import (
    UNIT_OF,
    BudgetAllocated,
    BudgetDrawn,
    BudgetExhausted,
    BudgetExtended,
    BudgetRefused,
    BudgetReleased,
    BudgetRequested,
    BudgetReserved,
    BudgetSettled,
    BudgetThresholdCrossed,
    BudgetTopUpRequested,
    Line,
)
from events.ids import derived
from events.words import BudgetPeriod, CarryOver, OnExhausted, Resource, Unit
from tests.budget.world import NOW, SHOP, World, machine_id, wanted

ANN = machine_id(1)
DAY = timedelta(days=1)
RESERVATION = derived("reservation", "1")
amounts = st.decimals(0, 1_000, places=4)


@pytest.fixture
def world() -> World:
    return World()


def top_up(
    amount: str, resource: Resource = Resource.MONEY, period: BudgetPeriod = BudgetPeriod.TOTAL
) -> BudgetTopUpRequested:
    return BudgetTopUpRequested(resource=resource, amount=Decimal(amount), unit=UNIT_OF[resource], period=period)


def money(amount: str | Decimal) -> tuple[Line, ...]:
    line = Line(resource=Resource.MONEY, amount=Decimal(amount), period=BudgetPeriod.TOTAL, period_start=TOTAL_START)
    return (line,)


def asked(world: World, *requests: BudgetRequested | BudgetTopUpRequested) -> tuple[object, ...]:
    return world.set_budget(SHOP, *cast("tuple[BudgetRequested, ...]", requests))


def book_of(world: World, period: BudgetPeriod = BudgetPeriod.TOTAL) -> Book:
    return world.account(SHOP).books[Resource.MONEY, period]


def test_what_is_added_counts_in_this_period_only(world: World) -> None:
    asked(world, wanted("5", period=BudgetPeriod.DAILY))
    (said,) = asked(world, top_up("2.5", period=BudgetPeriod.DAILY))
    assert isinstance(said, BudgetAllocated)
    assert (said.amount, said.base_amount) == (Decimal("7.5"), 5)
    world.now += DAY
    asked(world)
    assert (book_of(world, BudgetPeriod.DAILY).allocated, book_of(world, BudgetPeriod.DAILY).base) == (5, 5)


def test_two_additions_asked_for_at_once_both_count(world: World) -> None:
    asked(world, wanted("5"))
    assert len(asked(world, top_up("1"), top_up("2"))) == 2
    assert book_of(world).allocated == 8
    assert asked(world) == ()


def test_an_addition_to_a_day_that_nobody_has_opened_opens_it(world: World) -> None:
    asked(world, wanted("5", period=BudgetPeriod.DAILY))
    world.now += DAY
    opens, adds = asked(world, top_up("1", period=BudgetPeriod.DAILY))
    assert (cast("BudgetAllocated", opens).amount, cast("BudgetAllocated", adds).amount) == (5, 6)


def test_there_is_nothing_to_add_to_without_an_allocation(world: World) -> None:
    (refused,) = asked(world, top_up("1"))
    assert isinstance(refused, BudgetRefused)
    assert refused.reason.endswith("set one: autovibe budget set webshop 1CAD")
    (refused,) = asked(world, top_up("1", period=BudgetPeriod.DAILY))
    assert isinstance(refused, BudgetRefused)
    assert refused.reason.endswith("autovibe budget set webshop 1CAD --period daily"), "and not the total"


def test_a_soft_limit_is_said_once_and_thresholds_are_the_accounts_own(world: World) -> None:
    request = wanted("10").model_copy(update={"soft": Decimal(6), "thresholds": (90, 30)})
    asked(world, request)
    world.happen(where(), BudgetSettled(reservation_id=RESERVATION, machine_id=ANN, lines=money("6")))
    said = cast("tuple[BudgetThresholdCrossed, ...]", asked(world))
    assert [(one.percent, one.soft) for one in said] == [(30, None), (60, 6)]
    world.happen(where(), BudgetSettled(reservation_id=RESERVATION, machine_id=ANN, lines=money("4")))
    assert [type(one) for one in asked(world)] == [BudgetThresholdCrossed, BudgetExhausted]


def where() -> Address:

    return address.budget(SHOP, SHOP)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"soft": Decimal(11)}, "soft limit"),
        ({"carry": CarryOver.DEBT}, "no next period"),
        ({"unit": Unit.USD}, "say it in CAD"),
        ({"resource": Resource.TOKENS, "unit": Unit.TOKENS, "amount": Decimal("0.5")}, "tokens are whole"),
    ],
)
def test_what_cannot_be_is_refused_with_what_would_be_right(
    world: World, changes: dict[str, object], said: str
) -> None:
    (refused,) = asked(world, wanted("10").model_copy(update=changes))
    assert isinstance(refused, BudgetRefused)
    assert said in refused.reason


@pytest.mark.parametrize("resource", list(Resource))
def test_every_resource_can_be_budgeted_in_its_unit(world: World, resource: Resource) -> None:
    request = wanted("3", resource, BudgetPeriod.MONTHLY).model_copy(update={"on_exhausted": OnExhausted.REFUSE})
    (said,) = asked(world, request)
    assert isinstance(said, BudgetAllocated)
    book = world.account(SHOP).books[resource, BudgetPeriod.MONTHLY]
    assert (said.unit, book.allocated, book.on_exhausted) == (UNIT_OF[resource], 3, OnExhausted.REFUSE)


def turned(book: Book, times: list[int]) -> Book:
    """Look at the account after so many periods each time, and nobody uses it."""
    for periods in times:
        now = book.start
        for _ in range(periods):
            now = span_at(book.period, book.zone, now).end or now
        if book.end is None or now < book.end:
            continue
        said = next_period(book, now)
        book = evolve(Account(books={book.key: book}), said).books[book.key]
    return book


@given(
    base=amounts,
    used=amounts,
    reserved=amounts,
    owed=amounts,
    carry=st.sampled_from(CarryOver),
    period=st.sampled_from([BudgetPeriod.DAILY, BudgetPeriod.WEEKLY, BudgetPeriod.MONTHLY]),
    zone=st.sampled_from(["UTC", "America/Toronto", "Asia/Beirut", "Pacific/Auckland"]),
    periods=st.integers(1, 40),
)
def test_what_a_period_leaves_is_conserved_whenever_somebody_looks(  # noqa: PLR0917 - what a book is
    base: Decimal,
    used: Decimal,
    reserved: Decimal,
    owed: Decimal,
    carry: CarryOver,
    period: BudgetPeriod,
    zone: str,
    periods: int,
) -> None:
    span = span_at(period, zone, NOW)
    book = Book(
        Resource.MONEY, period, span.start, span.end, base, zone, base=base, carry=carry, used=used, reserved=reserved
    )
    if carry is CarryOver.DEBT:
        book = replace(book, owed=owed)
    late, daily = turned(book, [periods]), turned(book, [1] * periods)
    assert (late.start, late.allocated, late.owed) == (daily.start, daily.allocated, daily.owed)
    assert (late.used, late.reserved, late.base) == (0, 0, base)
    given = late.allocated or Decimal(0)
    match carry:
        case CarryOver.NONE:
            assert given == base
        case CarryOver.UNUSED:
            assert given == base * periods + max(base - used - reserved, Decimal(0))
        case CarryOver.DEBT:
            debt = owed + max(used - base, Decimal(0))
            assert given - late.owed == min(base, base * periods - debt)


def held(*said: BudgetReserved | BudgetExtended | BudgetDrawn | BudgetSettled | BudgetReleased) -> Account:
    account = Account()
    for event in said:
        account = evolve(account, event)
    return account


def total(account: Account) -> tuple[Decimal, Decimal]:
    book = account.books[Resource.MONEY, BudgetPeriod.TOTAL]
    return book.used, book.reserved


def reserved(amount: str) -> BudgetReserved:
    return BudgetReserved(reservation_id=RESERVATION, machine_id=ANN, lines=money(amount))


def extended(amount: str, reservation_id: UUID = RESERVATION) -> BudgetExtended:
    return BudgetExtended(reservation_id=reservation_id, machine_id=ANN, lines=money(amount))


def drawn(amount: str) -> BudgetDrawn:
    return BudgetDrawn(reservation_id=RESERVATION, machine_id=ANN, lines=money(amount))


def test_a_draw_moves_from_reserved_to_used_and_the_rest_is_released() -> None:
    assert total(held(reserved("5"), drawn("2"))) == (2, 3)
    assert total(held(reserved("5"), extended("3"), drawn("6"))) == (6, 2)
    done = BudgetReleased(reservation_id=RESERVATION, machine_id=ANN)
    assert total(held(reserved("5"), extended("3"), drawn("6"), done)) == (6, 0)


def test_a_draw_beyond_the_hold_is_used_and_leaves_nothing_reserved() -> None:
    assert total(held(reserved("5"), drawn("7"))) == (7, 0)


def test_an_extension_of_what_is_resolved_holds_nothing() -> None:
    settled = BudgetSettled(reservation_id=RESERVATION, machine_id=ANN, lines=money("1"))
    assert total(held(reserved("5"), settled, extended("3"))) == (1, 0)


@given(
    first=amounts,
    moves=st.lists(st.tuples(st.booleans(), amounts), max_size=12),
    last=amounts,
)
def test_what_is_reserved_is_what_is_held_less_what_was_drawn(
    first: Decimal, moves: list[tuple[bool, Decimal]], last: Decimal
) -> None:
    account, hold, used = held(reserved(str(first))), first, Decimal(0)
    for extends, amount in moves:
        account = evolve(account, extended(str(amount)) if extends else drawn(str(amount)))
        hold = hold + amount if extends else max(hold - amount, Decimal(0))
        used += Decimal(0) if extends else amount
        assert total(account) == (used, hold)
    settled = BudgetSettled(reservation_id=RESERVATION, machine_id=ANN, lines=money(last))
    assert total(evolve(account, settled)) == (used + last, 0)
