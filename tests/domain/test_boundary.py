"""Whether a machine's next call waits for a capture, and for which."""

from domain.boundary import BEFORE_RISK, IDS_MAX, Since, Want, between_calls
from events.project import CheckpointPolicy

POLICY = CheckpointPolicy(calls_max=3, interval_s=60)
CHANGES, ANYWAY = Want(only_changes=True), Want(only_changes=False)


def test_the_first_call_of_an_incarnation_waits_for_nothing() -> None:
    assert between_calls(POLICY, Since(), 5.0) is None


def test_the_next_calls_wait_for_what_changed_and_at_the_latest_after_so_many_for_a_checkpoint_anyway() -> None:
    since = Since().called(1.0)
    wants: list[Want | None] = []
    for _ in range(4):
        wants.append(between_calls(POLICY, since, 2.0))
        since = since.called(2.0)
    assert wants == [CHANGES, CHANGES, ANYWAY, ANYWAY]
    assert between_calls(POLICY, since.captured(3.0), 4.0) == CHANGES


def test_a_checkpoint_comes_at_the_latest_after_so_long() -> None:
    since = Since().called(1.0)
    assert between_calls(POLICY, since, 60.9) == CHANGES
    assert between_calls(POLICY, since, 61.0) == ANYWAY
    assert between_calls(POLICY, since.captured(61.0).called(61.0), 120.0) == CHANGES


def test_a_project_may_want_one_at_every_call_or_none() -> None:
    since = Since().called(1.0)
    assert between_calls(CheckpointPolicy(between_calls="always"), since, 1.0) == ANYWAY
    assert between_calls(CheckpointPolicy(between_calls="never", calls_max=1), since.called(1.0), 1e9) is None


def test_one_capture_does_for_all_that_wait_for_it() -> None:
    some = Want(only_changes=True, transcript_has=("a", "b"))
    others = Want(only_changes=False, transcript_has=("b", "c"))
    assert some.joined(others) == Want(only_changes=False, transcript_has=("a", "b", "c"))
    assert some.joined(BEFORE_RISK) == Want(only_changes=True, before_risk=True, transcript_has=("a", "b"))
    many = Want(only_changes=True, transcript_has=tuple(map(str, range(IDS_MAX))))
    assert len(some.joined(many).transcript_has) == IDS_MAX
