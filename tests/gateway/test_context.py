"""How many calls of a machine are open, and how many of those are with a provider."""

from uuid import uuid4

from services.gateway.context import InFlight


def test_a_machine_whose_calls_are_all_held_has_none_with_a_provider() -> None:
    ann, bob, calls = uuid4(), uuid4(), InFlight()
    calls.opened(ann)
    calls.opened(ann)
    calls.opened(bob)
    calls.held(ann)
    assert (calls.open_of(ann), calls.streaming_of(ann), calls.total, calls.machines) == (2, 1, 3, 2)
    calls.held(ann)
    assert calls.streaming_of(ann) == 0


def test_nothing_is_remembered_of_calls_that_are_over() -> None:
    ann, calls = uuid4(), InFlight()
    calls.opened(ann)
    calls.held(ann)
    calls.released(ann)
    calls.closed(ann)
    assert (calls.total, calls.machines, calls.streaming_of(ann)) == (0, 0, 0)
