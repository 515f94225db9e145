"""Who waits, and who of them is next: within a project, and between projects at the hub."""

from dataclasses import replace
from datetime import timedelta
from decimal import Decimal
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from domain.budget.queue import Queue, Waiting
from domain.fairshare import STARVING_S
from events import address
from events.base import Event
from events.budget import SharesRebalanced
from events.ids import HUB
from events.machine import MachineAdmitted, MachineEnded, MachineQueued
from events.project import ProjectCreated, ProjectUpdated
from events.words import Hold, Outcome, Resource
from tests.budget.world import NOW, World, machine_id, request, wanted

GREEDINESS = {"bakery": "1", "florist": "0.50", "garage": "0.25", "webshop": "0.30", "zoo": "0"}
PROJECTS = tuple(GREEDINESS)


@pytest.fixture
def world() -> World:
    return World()


def greedy(world: World, greediness: dict[str, str] = GREEDINESS) -> None:
    for slug, value in greediness.items():
        world.happen(address.project(slug), ProjectCreated(greediness=Decimal(value)))


def hold_all(world: World, amount: str, slug: str = "holder") -> UUID:
    """Have one machine hold all that the hub has, so that everybody else waits."""
    world.set_budget(HUB, wanted(amount))
    who = machine_id(10_000)
    assert isinstance(world.ask(who, request(amount), slug), MachineAdmitted)
    return who


def end(world: World, who: UUID, slug: str) -> None:
    world.happen(address.machine(slug, who), MachineEnded(epoch=1, outcome=Outcome.SUCCEEDED))
    world.settle(who, slug)


def admitted_of(world: World) -> dict[str, int]:
    went = [slug for slug, _ in world.serve()]
    return {slug: went.count(slug) for slug in PROJECTS}


def test_50_requests_of_5_projects_on_a_budget_for_20_get_their_shares(world: World) -> None:
    greedy(world)
    holder = hold_all(world, "20")
    for number in range(50):
        assert isinstance(world.ask(machine_id(number), request("1"), PROJECTS[number % 5]), MachineQueued)
    end(world, holder, "holder")
    assert admitted_of(world) == {"bakery": 10, "florist": 5, "garage": 2, "webshop": 3, "zoo": 0}
    assert world.account(HUB).books[Resource.MONEY, wanted("1").period].reserved == 20


def test_the_worked_example_in_requests_of_one_dollar(world: World) -> None:
    greedy(world, {"a": "1", "b": "0.50", "c": "0.25", "d": "0"})
    holder = hold_all(world, "100")
    number = 0
    for slug, wants in (("d", 20), ("c", 10), ("b", 60), ("a", 80)):
        for _ in range(wants):
            number += 1
            world.ask(machine_id(number), request("1"), slug)
    end(world, holder, "holder")
    went = [slug for slug, _ in world.serve()]
    assert {slug: went.count(slug) for slug in "abcd"} == {"a": 60, "b": 30, "c": 10, "d": 0}


def test_the_shares_are_said_once_and_again_when_they_have_moved(world: World) -> None:
    greedy(world, {"a": "1", "b": "0.50"})
    hold_all(world, "100")
    for number in range(8):
        world.ask(machine_id(number), request("10"), "a" if number % 2 else "b")
    assert world.queue.rebalanced(NOW) == (), "nothing is left to share"
    holder = machine_id(10_000)
    end(world, holder, "holder")
    assert world.queue.rebalanced(NOW) == (), "there is enough for both"
    for number in range(8, 20):
        world.happen(address.machine("b", machine_id(number)), request("10"))
        world.happen(address.machine("b", machine_id(number)), waits("10"))
    (said,) = world.queue.rebalanced(NOW)
    assert (said.resource, said.allocated, said.shares) == (Resource.MONEY, 100, {"a": 40, "b": 60})
    world.happen(address.budget(HUB, HUB), said)
    assert world.queue.rebalanced(NOW) == ()
    world.happen(address.project("a"), ProjectUpdated(greediness=Decimal("0.10")))
    (said,) = world.queue.rebalanced(NOW)
    assert isinstance(said, SharesRebalanced)
    assert said.shares == {"a": pytest.approx(Decimal("16.67"), abs=Decimal("0.01")), "b": said.shares["b"]}


def waits(amount: str = "1", *, greediness: str | None = None, node: str = HUB) -> MachineQueued:
    return MachineQueued(
        hold=Hold.BUDGET,
        node=node,
        wants={Resource.MONEY: Decimal(amount)},
        greediness=None if greediness is None else Decimal(greediness),
    )


def test_within_a_project_the_greediest_is_first_and_of_equals_the_oldest(world: World) -> None:
    hold_all(world, "10", "bakery")
    for number, greediness in enumerate(("0.10", None, "0.90", "0.90")):
        world.happen(address.machine("bakery", machine_id(number)), waits(greediness=greediness))
    order: list[UUID] = []
    while (firsts := world.queue.firsts(NOW)) and firsts:
        order.append(firsts[0].machine_id)
        world.happen(
            address.machine("bakery", firsts[0].machine_id), MachineEnded(outcome=Outcome.CANCELLED, reason="stopped")
        )
    assert order == [machine_id(number) for number in (2, 3, 1, 0)]


def test_a_large_request_that_is_next_is_not_starved_by_small_ones_that_would_fit(world: World) -> None:
    greedy(world, {"large": "0.50", "small": "0.50"})
    world.set_budget(HUB, wanted("10"))
    small = [machine_id(number) for number in range(40)]
    for who in small[:8]:
        world.ask(who, request("1"), "small")
    assert isinstance(world.ask(machine_id(100), request("5"), "large"), MachineQueued)
    for who in small[8:]:
        assert isinstance(world.ask(who, request("1"), "small"), MachineQueued)
    for who in small[:3]:
        assert world.serve() == []
        end(world, who, "small")
    assert [slug for slug, _ in world.serve()] == ["large"]


def test_a_request_beyond_the_share_of_its_project_is_served_once_it_has_starved(world: World) -> None:
    greedy(world, {"large": "0.50", "small": "0.50"})
    world.set_budget(HUB, wanted("10"))
    running = [machine_id(number) for number in range(5)]
    for who in running:
        world.ask(who, request("1"), "small")
    assert isinstance(world.ask(machine_id(100), request("8"), "large"), MachineQueued)
    number = 10
    for _ in range(20):  # small ones come as fast as they go, and stay within their share
        number += 1
        assert isinstance(world.ask(machine_id(number), request("1"), "small"), MachineQueued | MachineAdmitted)
        end(world, running.pop(0), "small")
        world.serve()
        running.append(machine_id(number))
    assert str(machine_id(100)) in world.queue.waiting
    world.now = NOW + timedelta(seconds=STARVING_S)
    for who in running:
        end(world, who, "small")
        world.serve()
    assert str(machine_id(100)) not in world.queue.waiting


def test_who_cannot_be_tried_holds_up_nobody(world: World) -> None:
    hold_all(world, "10", "bakery")
    world.happen(address.machine("florist", machine_id(1)), waits())
    world.happen(address.machine("florist", machine_id(2)), waits())
    world.happen(address.machine("bakery", machine_id(3)), waits())
    first = world.queue.firsts(NOW)
    assert [each.machine_id for each in first] == [machine_id(1)]
    second = world.queue.firsts(NOW, {str(machine_id(1))})
    assert [each.machine_id for each in second] == [machine_id(2)]
    third = world.queue.waiting[str(machine_id(3))]
    avoid = {str(machine_id(1)), str(machine_id(2))}
    assert world.queue.ahead_of(third, NOW) == first[0]
    assert world.queue.ahead_of(third, NOW, avoid) is None


def test_more_for_a_machine_that_runs_is_within_the_share_of_its_project_or_keeps_nobody_from_theirs(
    world: World,
) -> None:
    greedy(world, {"a": "0.50", "b": "0.50"})
    world.set_budget(HUB, wanted("10"))
    for number, amount in enumerate(("4", "3")):
        world.ask(machine_id(number), request(amount), "a")
    more = {Resource.MONEY: Decimal(1)}
    assert world.queue.may_have("a", more, NOW), "nobody waits"
    world.happen(address.machine("b", machine_id(9)), waits("3"))
    assert not world.queue.may_have("a", more, NOW)
    assert world.queue.may_have("b", more, NOW)
    world.happen(address.machine("b", machine_id(9)), waits("9"))
    assert world.queue.may_have("a", more, NOW), "what b waits for is beyond its share"


STEPS = st.lists(st.tuples(st.integers(0, 8), st.sampled_from(["hub", "project", "admitted", "ended"])), max_size=40)


def slug_of(number: int) -> str:
    return PROJECTS[number % 3]


@given(STEPS)
def test_somebody_is_always_next_and_nobody_stands_before_themselves(steps: list[tuple[int, str]]) -> None:
    queue, known = Queue(10), dict[UUID, Waiting]()
    for at, (number, step) in enumerate(steps):
        who, slug = machine_id(number), slug_of(number)
        said: Event
        match step:
            case "admitted":
                said = MachineAdmitted(reservation_id=who, held={})
                known.pop(who, None)
            case "ended":
                said = MachineEnded(outcome=Outcome.CANCELLED, reason="stopped")
                known.pop(who, None)
            case _:
                said = waits(node=HUB if step == "hub" else slug)
                since = known[who].since if who in known else NOW + timedelta(seconds=at)
                known[who] = Waiting(slug, who, said, since)
        queue.hear(address.machine(slug, who), said, NOW + timedelta(seconds=at))
        later = NOW + timedelta(seconds=len(steps))
        assert queue.waiting == {str(who): each for who, each in known.items()}
        assert bool(queue.firsts(later)) == bool(known)
        for each in queue.firsts(later):
            if each.queued.node == HUB:
                assert queue.ahead_of(each, later) is None
        for each in known.values():
            ahead = queue.ahead_of(each, later)
            assert ahead is None or ahead.machine_id != each.machine_id
            new = replace(each, machine_id=machine_id(99), queued=waits(), since=later)
            assert queue.ahead_of(new, later) is not None or each.queued.node != HUB or each.slug == new.slug
        for slug in PROJECTS:
            assert queue.count(slug) == sum(one.slug == slug for one in known.values())
