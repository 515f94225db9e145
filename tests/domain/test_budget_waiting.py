"""Whose model call is next when several machines wait for what others hold, and who may not overtake them."""

from datetime import timedelta
from decimal import Decimal

from domain.budget.waiting import WaitingCall, in_turn, may_have
from domain.fairshare import STARVING_S
from events import address
from events.ids import HUB
from events.project import ProjectCreated
from events.words import Resource
from tests.budget.world import NOW, World, machine_id, request, wanted


def call(number: int, slug: str, amount: str, *, greed: str | None = None, waited_s: float = 0.0) -> WaitingCall:
    return WaitingCall(
        slug,
        machine_id(number),
        {Resource.MONEY: Decimal(amount)},
        NOW - timedelta(seconds=waited_s),
        None if greed is None else Decimal(greed),
    )


def a_hub(amount: str = "10") -> World:
    world = World()
    world.set_budget(HUB, wanted(amount))
    for slug, greediness in (("bakery", "0.90"), ("webshop", "0.30")):
        world.happen(address.project(slug), ProjectCreated(greediness=Decimal(greediness)))
    return world


def test_within_a_project_the_greediest_is_next_of_equals_the_oldest_and_waiting_makes_greedier() -> None:
    queue = a_hub().queue
    modest, old, greedy = (
        call(1, "webshop", "1"),
        call(2, "webshop", "1", waited_s=5),
        call(3, "webshop", "1", greed="0.9"),
    )
    assert in_turn([modest, old, greedy], queue, NOW) == [greedy, old, modest]
    ancient = call(4, "webshop", "1", greed="0.8", waited_s=STARVING_S)
    assert in_turn([greedy, ancient], queue, NOW) == [ancient, greedy]


def test_between_projects_it_is_who_would_have_least_for_its_greediness() -> None:
    world = a_hub()
    world.ask(machine_id(7), request("6.5"), "bakery")
    rich, poor = call(1, "bakery", "3"), call(2, "webshop", "2")
    assert in_turn([rich, poor], world.queue, NOW) == [poor, rich]
    assert not may_have(rich, rich.wants, [poor], world.queue, NOW)
    assert may_have(poor, poor.wants, [rich], world.queue, NOW)


def test_nobody_of_a_project_overtakes_another_of_it() -> None:
    queue = a_hub().queue
    first, late = call(1, "webshop", "8", waited_s=1), call(2, "webshop", "0.1")
    assert not may_have(late, late.wants, [first], queue, NOW)
    assert may_have(first, first.wants, [late], queue, NOW)
    assert may_have(late, late.wants, [], queue, NOW)
