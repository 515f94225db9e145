"""A checkpoint's life and its place in the tree."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from domain import checkpoint as t
from domain.checkpoint import Checkpoint, decide, evolve
from domain.machine_state import Start
from domain.retention import Keep, droppable
from events import checkpoint as e
from events.agent import WorkspaceCaptured
from events.words import CheckpointType, CreationContext, VerificationStatus

T0 = datetime(2026, 3, 1, 12, tzinfo=UTC)
MACHINE = UUID(int=1)
REPORT = WorkspaceCaptured(
    checkpoint_id=UUID(int=50),
    checkpoint_type=CheckpointType.AUTOMATIC,
    creation_context=CreationContext.TIMER,
    parent_id=UUID(int=10),
    snapshot="a" * 64,
    file_count=3,
    size_bytes=30,
    stored_bytes=10,
    capture_ms=5,
)
TAKE = t.Take(REPORT, MACHINE, 1, UUID(int=10), 7, {})
FAIL = t.Fail(MACHINE, "disk full")
VERIFY = t.Verify(3, 12)


def given_events(*events: e.CheckpointEvent) -> Checkpoint:
    checkpoint = Checkpoint()
    for seq, event in enumerate(events, 1):
        checkpoint = evolve(checkpoint, event, T0, seq)
    return checkpoint


def taken(  # noqa: PLR0917 - a row of a table
    number: int, parent: int | None = None, machine: int | None = 1, epoch: int = 1, stored: int = 10, age_h: float = 0
) -> Checkpoint:
    event = e.CheckpointTaken(
        checkpoint_type=CheckpointType.AUTOMATIC if parent else CheckpointType.GENESIS,
        creation_context=CreationContext.TIMER,
        snapshot=f"{number:064x}",
        parent_id=UUID(int=parent) if parent else None,
        machine_id=UUID(int=machine) if machine else None,
        epoch=epoch if machine else None,
        file_count=1,
        size_bytes=1,
        stored_bytes=stored,
    )
    return evolve(Checkpoint(), event, T0 - timedelta(hours=age_h), number)


def corrupt(checkpoint: Checkpoint) -> Checkpoint:
    return evolve(checkpoint, e.CheckpointCorrupted(reason="a bit flipped"), T0, 999)


def verified(checkpoint: Checkpoint) -> Checkpoint:
    return evolve(checkpoint, e.CheckpointVerified(file_count=1, verify_ms=1), T0, 999)


def tree(**rows: Checkpoint) -> dict[UUID, Checkpoint]:
    return {UUID(int=int(name[1:])): checkpoint for name, checkpoint in rows.items()}


def test_what_the_store_holds_is_taken_once() -> None:
    [event] = decide(TAKE, Checkpoint())
    assert isinstance(event, e.CheckpointTaken)
    assert (event.snapshot, event.parent_id, event.epoch, event.log_seq) == ("a" * 64, UUID(int=10), 1, 7)
    assert decide(TAKE, given_events(event)) == []


def test_whichever_is_said_first_settles_it() -> None:
    [event] = decide(FAIL, Checkpoint())
    assert decide(TAKE, given_events(event)) == []
    [event] = decide(TAKE, Checkpoint())
    assert decide(FAIL, given_events(event)) == []


def test_what_was_asked_for_keeps_its_description() -> None:
    asked = e.CheckpointRequested(machine_id=MACHINE, description="before lunch")
    [event] = decide(TAKE, given_events(asked))
    assert isinstance(event, e.CheckpointTaken)
    assert event.description == "before lunch"


def test_verifying_says_verified_or_corrupt_and_only_of_what_waits_for_it() -> None:
    [event] = decide(TAKE, Checkpoint())
    waits = given_events(event)
    [good] = decide(VERIFY, waits)
    assert good == e.CheckpointVerified(file_count=3, verify_ms=12)
    assert decide(VERIFY, given_events(event, good)) == []
    assert decide(VERIFY, Checkpoint()) == []
    [bad] = decide(replace(VERIFY, problem="a.txt differs"), waits)
    assert bad == e.CheckpointCorrupted(reason="a.txt differs")
    assert not given_events(event, bad).is_good


def test_what_is_pinned_or_gone_is_not_purged() -> None:
    [event] = decide(TAKE, Checkpoint())
    purge = t.Purge("retention")
    [purged] = decide(purge, given_events(event))
    assert decide(purge, given_events(event, purged)) == []
    assert decide(purge, given_events(event, e.CheckpointPinned())) == []
    assert decide(purge, given_events(event, e.CheckpointPinned(), e.CheckpointUnpinned())) == [purged]
    assert decide(purge, Checkpoint()) == []


def test_lineage_leads_back_to_the_genesis() -> None:
    found = tree(c10=taken(10), c11=taken(11, 10), c12=taken(12, 11), c13=taken(13, 10))
    assert list(t.lineage(found, UUID(int=12))) == [UUID(int=12), UUID(int=11), UUID(int=10)]
    assert sorted(t.children(found, UUID(int=10)), key=int) == [UUID(int=11), UUID(int=13)]
    assert list(t.lineage(found, UUID(int=99))) == []


def test_the_last_good_one_is_the_nearest_ancestor_that_is_not_corrupt() -> None:
    found = tree(c10=taken(10), c11=corrupt(taken(11, 10)), c12=corrupt(taken(12, 11)))
    assert t.last_good(found, UUID(int=12)) == UUID(int=10)
    assert str(UUID(int=10)) in t.why_not(found, UUID(int=12))
    assert t.why_not(found, UUID(int=10)) == ""
    assert "no checkpoint" in t.why_not(found, UUID(int=99))


def test_a_machine_recovers_along_the_lineage_of_what_it_last_took() -> None:
    base = Start(UUID(int=10), f"{10:064x}")
    found = tree(
        c10=taken(10, machine=None), c11=taken(11, 10), c12=taken(12, 11), c13=taken(13, 11), c14=corrupt(taken(14, 13))
    )
    candidates = t.recovery_candidates(found, MACHINE, base, 1)
    assert [start.checkpoint_id.int for start in candidates] == [13, 11, 10]


def test_a_restored_machine_does_not_recover_to_before_its_restore() -> None:
    base = Start(UUID(int=11), f"{11:064x}")
    found = tree(c10=taken(10, machine=None), c11=taken(11, 10), c12=taken(12, 11), c13=taken(13, 11, epoch=2))
    assert [s.checkpoint_id.int for s in t.recovery_candidates(found, MACHINE, base, 2)] == [13, 11]
    without = {each: checkpoint for each, checkpoint in found.items() if each.int != 13}
    assert [s.checkpoint_id.int for s in t.recovery_candidates(without, MACHINE, base, 2)] == [11]


def test_a_corrupted_base_is_replaced_by_its_nearest_good_ancestor() -> None:
    base = Start(UUID(int=11), f"{11:064x}")
    found = tree(c10=taken(10, machine=None), c11=corrupt(taken(11, 10, machine=None)))
    assert [s.checkpoint_id.int for s in t.recovery_candidates(found, MACHINE, base, 1)] == [10]


def test_without_keep_rules_nothing_is_dropped() -> None:
    old = tree(c10=taken(10, age_h=1e5), c11=taken(11, 10, age_h=1e5))
    assert droppable(old, Keep(), (), T0) == []


def test_the_newest_are_kept_and_of_each_day_the_last() -> None:
    rows = {f"c{n}": taken(n, n - 1 if n > 10 else None, age_h=24.0 * (20 - n)) for n in range(10, 21)}
    found = tree(**rows)
    dropped = droppable(found, Keep(last=2, daily=4), (), T0)
    assert [each.int for each in dropped] == [11, 12, 13, 14, 15, 16]


def test_the_byte_budget_drops_the_oldest_first() -> None:
    rows = {f"c{n}": taken(n, n - 1 if n > 10 else None, age_h=48, stored=10) for n in range(10, 16)}
    dropped = droppable(tree(**rows), Keep(bytes_max=30), (), T0)
    assert [each.int for each in dropped] == [11, 12, 13]


@pytest.mark.parametrize("keep", [Keep(last=1), Keep(bytes_max=1), Keep(daily=1, bytes_max=1)])
def test_what_somebody_stands_on_is_never_dropped(keep: Keep) -> None:
    found = tree(
        c10=taken(10, age_h=99),
        c11=verified(taken(11, 10, age_h=98)),
        c12=evolve(taken(12, 11, age_h=97), e.CheckpointPinned(), T0, 999),
        c13=taken(13, 12, age_h=96),
        c14=taken(14, 13, age_h=95),
        c15=taken(15, 14, age_h=94),
    )
    dropped = {each.int for each in droppable(found, keep, [UUID(int=13)], T0)}
    assert dropped <= {14, 15}
    assert dropped


ROWS = st.lists(
    st.tuples(st.floats(0, 2_000), st.integers(0, 100), st.booleans(), st.sampled_from(list(VerificationStatus))),
    min_size=1,
    max_size=25,
)
KEEPS = st.builds(
    Keep,
    last=st.integers(0, 5),
    hourly=st.integers(0, 5),
    daily=st.integers(0, 5),
    weekly=st.integers(0, 3),
    monthly=st.integers(0, 3),
    bytes_max=st.integers(0, 500),
)


@settings(max_examples=300, deadline=None)
@given(ROWS, KEEPS, st.sets(st.integers(10, 35), max_size=3))
def test_whatever_the_rules_something_verified_stays_and_nobody_loses_the_ground(
    rows: list[tuple[float, int, bool, VerificationStatus]], keep: Keep, used: set[int]
) -> None:
    ages = sorted((row[0] for row in rows), reverse=True)
    found = {
        UUID(int=10 + n): replace(
            taken(10 + n, 9 + n if n else None, age_h=age, stored=stored), pinned=pinned, verification=verification
        )
        for n, (age, (_, stored, pinned, verification)) in enumerate(zip(ages, rows, strict=True))
    }
    in_use = {UUID(int=number) for number in used}
    dropped = droppable(found, keep, in_use, T0)
    kept = set(found) - set(dropped)
    assert not set(dropped) & in_use
    assert not any(found[each].pinned for each in dropped)
    assert UUID(int=10) in kept
    was = [each for each, checkpoint in found.items() if checkpoint.verification is VerificationStatus.VERIFIED]
    assert not was or any(each in kept for each in was)
    again = droppable({each: found[each] for each in kept}, keep, in_use, T0)
    assert again == [], "dropping once is dropping all"
    assert bool(dropped) <= keep.is_anything


def test_what_was_taken_stays_what_it_was() -> None:
    [event] = decide(TAKE, Checkpoint())
    assert isinstance(event, e.CheckpointTaken)
    other = event.model_copy(update={"snapshot": "b" * 64})
    assert given_events(event, other).taken == event
