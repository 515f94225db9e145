"""What the overview is fed with."""

import pytest

from domain.overview import is_fed


@pytest.mark.parametrize(
    ("subject", "fed"),
    [
        ("av.webshop.machine.1.MachineEnded", True),
        ("av.webshop.checkpoint.1.CheckpointTaken", True),
        ("av.machine.budget.machine.BudgetSettled", False),
        ("av._hub.timer.1.TimerFired", False),
    ],
)
def test_an_event_is_fed_by_the_aggregate_in_its_subject(subject: str, fed: bool) -> None:  # noqa: FBT001
    assert is_fed(subject) is fed
