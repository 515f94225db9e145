"""The line of those who wait: the same answers as walking it, without walking it."""

from uuid import UUID

from hypothesis import given
from hypothesis import strategies as st

from domain.budget.queue import Queue, Waiting
from events import address
from events.base import Event
from events.ids import HUB
from events.machine import MachineAdmitted, MachineEnded, MachineQueued
from events.words import Hold, Outcome
from tests.budget.world import machine_id

PROJECTS = ("bakery", "florist", "webshop")


def slug_of(number: int) -> str:
    return PROJECTS[number % len(PROJECTS)]


def walked(waiting: list[Waiting], slug: str, who: UUID) -> Waiting | None:
    """Return who stands before a machine, by walking the line from its beginning."""
    on_the_hub = None
    for other in waiting:
        if other.machine_id == who:
            break
        if other.slug == slug:
            return other
        if on_the_hub is None and other.queued.node == HUB:
            on_the_hub = other
    return on_the_hub


STEPS = st.lists(st.tuples(st.integers(0, 8), st.sampled_from(["hub", "project", "admitted", "ended"])), max_size=40)


@given(STEPS)
def test_who_stands_before_whom_is_what_walking_the_line_says(steps: list[tuple[int, str]]) -> None:
    queue, line = Queue(), dict[UUID, Waiting]()
    for number, step in steps:
        who, slug = machine_id(number), slug_of(number)
        said: Event
        match step:
            case "admitted":
                said = MachineAdmitted(reservation_id=who, held={})
                line.pop(who, None)
            case "ended":
                said = MachineEnded(outcome=Outcome.CANCELLED, reason="stopped")
                line.pop(who, None)
            case _:
                said = MachineQueued(hold=Hold.BUDGET, node=HUB if step == "hub" else slug)
                line[who] = Waiting(slug, who, said)
        queue.hear(address.machine(slug, who), said)
        assert list(queue.waiting.values()) == list(line.values())
        for each in range(9):
            expected = walked(list(line.values()), slug_of(each), machine_id(each))
            assert queue.ahead_of(slug_of(each), machine_id(each)) == expected
        for slug in PROJECTS:
            assert queue.count(slug) == sum(one.slug == slug for one in line.values())
