"""A machine's life, as sentences: given its history, when something is asked, then this happens."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from uuid import UUID

import pytest

from domain import machine_commands as c
from domain.machine import Want, advance, awaited, decide, safety_id, wants
from domain.machine_state import RESTORE_REFUSED, Machine, Start, due, evolve
from domain.phases import DEADLINES, LIVE, RECOVERIES_MAX
from events import machine as m
from events.words import Hold, MachineType, Outcome, Phase, Resource, Unit
from tests.domain.machine_cases import (
    BASE,
    FINAL,
    ID,
    LATER,
    NEWER,
    OLDER,
    T0,
    admitted,
    at_phase,
    booted,
    given,
    provisioned,
    requested,
    working,
)

LOST = c.Lost(1, "it is gone", (NEWER, OLDER, BASE), T0)


def test_an_admitted_machine_gets_its_first_incarnation() -> None:
    machine = given(requested(), admitted())
    assert wants(machine, settled=True) is Want.PROVISION
    [event] = decide(c.Provision("local", "here", BASE, on_trunk=True, fenced=0), machine)
    assert event == provisioned(1)


def test_a_machine_that_nobody_admitted_gets_none() -> None:
    machine = given(requested())
    assert wants(machine, settled=True) is Want.NOTHING
    assert decide(c.Provision("local", "here", BASE, on_trunk=True, fenced=0), machine) == []


def test_the_next_incarnation_waits_until_the_last_one_is_fenced() -> None:
    recovering = given(*working(1), m.MachineRecoveryStarted(epoch=1, attempt=1, reason="gone"))
    provision = c.Provision("local", "here", BASE, on_trunk=False, fenced=0)
    assert decide(provision, recovering) == []
    assert decide(replace(provision, fenced=1), recovering) == [provisioned(2)]


def test_what_an_older_epoch_says_is_not_heard() -> None:
    second = given(*working(1), m.MachineRecoveryStarted(epoch=1, attempt=1, reason="gone"), provisioned(2), booted(2))
    assert decide(c.Finished(1, Outcome.SUCCEEDED), second) == []
    assert decide(c.Restored(1), second) == []
    assert decide(c.Lost(1, "gone", (), T0), second) == []


def test_a_fenced_incarnation_is_not_heard_while_the_next_is_made() -> None:
    recovering = given(*working(1), m.MachineRecoveryStarted(epoch=1, attempt=1, reason="gone"))
    assert decide(c.Finished(1, Outcome.SUCCEEDED), recovering) == []


def test_a_restored_workspace_means_ready_and_at_work_at_once() -> None:
    assert decide(c.Restored(1, 12), given(*booted_history())) == [
        m.MachineBecameReady(epoch=1, restore_ms=12),
        m.MachineWorkStarted(epoch=1),
    ]


def booted_history() -> list[m.MachineEvent]:
    return [requested(), admitted(), provisioned(1), booted(1)]


def test_a_finished_runner_waits_for_its_final_checkpoint_and_then_ends() -> None:
    finished = c.Finished(1, Outcome.SUCCEEDED, 0, "", FINAL.checkpoint_id)
    [sealing] = decide(finished, given(*working(1)))
    machine = given(*working(1), sealing)
    assert awaited(machine) == FINAL.checkpoint_id
    assert wants(machine, settled=False) is Want.NOTHING
    assert wants(machine, settled=True) is Want.TAKE_DOWN
    [ended] = decide(c.Destroyed(1, last_good=FINAL.checkpoint_id), machine)
    assert ended == m.MachineEnded(epoch=1, outcome=Outcome.SUCCEEDED, exit_code=0, checkpoint_id=FINAL.checkpoint_id)


def test_a_finished_runner_without_a_final_checkpoint_is_taken_down_when_its_agent_is_gone() -> None:
    [sealing] = decide(c.Finished(1, Outcome.FAILED, 3), given(*working(1)))
    machine = given(*working(1), sealing)
    assert wants(machine, settled=True, gone=False) is Want.NOTHING
    assert wants(machine, settled=True, gone=True) is Want.TAKE_DOWN


def test_an_agent_that_finishes_after_its_draining_was_given_up_is_still_believed() -> None:
    draining = [
        *working(1),
        m.MachineStopRequested(),
        m.MachineDrainingStarted(epoch=1, outcome=Outcome.CANCELLED, reason="x"),
    ]
    [sealing] = decide(c.DeadlinePassed(T0 + timedelta(seconds=61)), given(*draining))
    [again] = decide(c.Finished(1, Outcome.CANCELLED, checkpoint_id=FINAL.checkpoint_id), given(*draining, sealing))
    assert awaited(given(*draining, sealing, again)) == FINAL.checkpoint_id


@pytest.mark.parametrize("phase", [phase for phase in Phase if phase is not Phase.ENDED])
def test_the_end_is_accepted_in_every_phase(phase: Phase) -> None:
    machine = at_phase(phase)
    assert machine.phase is phase
    machine = evolve(machine, m.MachineStopRequested(reason="enough"), T0)
    events = decide(c.Stop(), machine)
    joins = phase in {Phase.DRAINING, Phase.SEALING, Phase.ENDING}
    assert joins or events[-1].phase in {Phase.DRAINING, Phase.ENDING, Phase.ENDED}
    assert not (joins and events)


@pytest.mark.parametrize("phase", [phase for phase in Phase if phase is not Phase.ENDED])
def test_every_phase_has_a_deadline_and_a_way_out(phase: Phase) -> None:
    machine = at_phase(phase)
    came = due(machine)
    assert came is not None
    assert decide(c.DeadlinePassed(came - timedelta(seconds=1), (BASE,)), machine) == []
    after = machine
    for event in decide(c.DeadlinePassed(came, (BASE,)), machine):
        after = evolve(after, event, came)
    assert after.phase is not phase
    if phase not in {Phase.REQUESTED, Phase.READY, Phase.WORKING}:
        assert after.phase is DEADLINES[phase].then


def test_every_phase_but_the_last_is_in_the_table() -> None:
    assert set(DEADLINES) == set(Phase) - {Phase.ENDED}


def test_the_goals_deadline_counts_over_all_incarnations() -> None:
    deadline_s = requested().limits.deadline_s
    first = given(*working(1), m.MachineRecoveryStarted(epoch=1, attempt=1, reason="gone"))
    second = first
    for event in (provisioned(2), booted(2), m.MachineBecameReady(epoch=2), m.MachineWorkStarted(epoch=2)):
        second = evolve(second, event, LATER)
    assert due(second) == T0 + timedelta(seconds=deadline_s + 5)


def test_a_lost_incarnation_is_recovered_from_its_newest_good_checkpoint() -> None:
    assert decide(LOST, given(*working(1))) == [
        m.MachineRecoveryStarted(epoch=1, attempt=1, from_checkpoint_id=NEWER.checkpoint_id, reason="it is gone")
    ]


def test_a_second_recovery_does_not_start_from_the_content_that_was_just_lost_with() -> None:
    history = [
        *working(1),
        m.MachineRecoveryStarted(epoch=1, attempt=1, from_checkpoint_id=NEWER.checkpoint_id, reason="x"),
    ]
    history += [provisioned(2, NEWER), booted(2)]
    same = Start(UUID(int=77), NEWER.snapshot)
    [event] = decide(replace(LOST, epoch=2, candidates=(same, NEWER, OLDER, BASE)), given(*history))
    assert isinstance(event, m.MachineRecoveryStarted)
    assert (event.attempt, event.from_checkpoint_id) == (2, OLDER.checkpoint_id)


def test_a_machine_lost_too_often_ends_as_lost() -> None:
    tired = given(*working(1), m.MachineRecoveryStarted(epoch=1, attempt=RECOVERIES_MAX, reason="x"), provisioned(2))
    [event] = decide(replace(LOST, epoch=2), tired)
    assert isinstance(event, m.MachineEndingStarted)
    assert event.outcome is Outcome.LOST


def test_an_incarnation_that_worked_long_begins_the_count_of_attempts_anew() -> None:
    tired = given(*working(1), m.MachineRecoveryStarted(epoch=1, attempt=RECOVERIES_MAX, reason="x"), *working(2)[2:])
    [event] = decide(replace(LOST, epoch=2, now=T0 + timedelta(seconds=601)), tired)
    assert isinstance(event, m.MachineRecoveryStarted)
    assert event.attempt == 1


def test_a_machine_lost_while_it_was_to_stop_is_not_recovered() -> None:
    machine = evolve(given(*working(1)), m.MachineStopRequested(reason="enough"), T0)
    [event] = decide(LOST, machine)
    assert event == m.MachineEndingStarted(epoch=1, outcome=Outcome.CANCELLED, reason="enough")


def test_missed_beats_mean_unreachable_and_a_sign_of_life_means_work() -> None:
    [lost] = decide(c.BeatsMissed(1, T0), given(*working(1)))
    unreachable = given(*working(1), lost)
    assert unreachable.phase is Phase.UNREACHABLE
    assert decide(c.BeatSeen(1), unreachable) == [m.MachineWorkStarted(epoch=1)]
    assert decide(c.BeatSeen(1), given(*working(1))) == []


def test_progress_reaches_the_log_at_most_once_a_second() -> None:
    said = c.Progressed(1, "half", 50, T0)
    machine = given(*working(1))
    [event] = decide(said, machine)
    machine = evolve(machine, event, T0)
    assert decide(replace(said, now=T0 + timedelta(seconds=0.5)), machine) == []
    assert decide(replace(said, now=T0 + timedelta(seconds=1)), machine) != []


def test_a_restore_takes_a_safety_checkpoint_and_then_begins_a_new_incarnation() -> None:
    target = OLDER
    asked = given(*working(1), m.MachineRestoreRequested(checkpoint_id=target.checkpoint_id))
    safety = safety_id(ID, 1, target.checkpoint_id)
    [started] = decide(c.Restore(safety), asked)
    machine = evolve(asked, started, T0)
    assert (machine.phase, awaited(machine)) == (Phase.CHECKPOINTING, safety)
    assert wants(machine, settled=False) is Want.CAPTURE
    assert decide(c.Restore(safety), machine) == []
    [event] = decide(c.Provision("local", "here", target, on_trunk=False, fenced=1), machine)
    restored = evolve(machine, event, T0)
    assert (restored.epoch, restored.base, restored.restore) == (2, target, None)


def test_a_failed_safety_checkpoint_means_no_restore() -> None:
    asked = given(*working(1), m.MachineRestoreRequested(checkpoint_id=OLDER.checkpoint_id))
    safety = safety_id(ID, 1, OLDER.checkpoint_id)
    [started] = decide(c.Restore(safety), asked)
    machine = evolve(asked, started, T0)
    assert decide(c.CheckpointSettled(safety, taken=True), machine) == []
    for event in decide(c.CheckpointSettled(safety, taken=False, reason="disk full"), machine):
        machine = evolve(machine, event, T0)
    assert (machine.phase, machine.restore) == (Phase.WORKING, None)
    assert decide(c.Restore(safety), machine) == []


def test_an_identical_restore_joins_and_another_is_refused_with_what_is_running() -> None:
    first = m.MachineRestoreRequested(checkpoint_id=OLDER.checkpoint_id)
    joined = given(*working(1), first, first)
    assert joined.refusals == ()
    other = evolve(joined, m.MachineRestoreRequested(checkpoint_id=NEWER.checkpoint_id), T0)
    said, started = decide(c.Restore(safety_id(ID, 1, OLDER.checkpoint_id)), other)
    assert isinstance(said, m.MachineProgressed)
    assert str(OLDER.checkpoint_id) in said.message
    assert isinstance(started, m.MachineCheckpointingStarted)
    answered = evolve(other, said, T0)
    assert (answered.refusals, answered.restore) == ((), OLDER.checkpoint_id)


def test_a_restore_to_what_cannot_be_started_from_is_refused() -> None:
    asked = given(*working(1), m.MachineRestoreRequested(checkpoint_id=OLDER.checkpoint_id))
    [said] = decide(c.Restore(safety_id(ID, 1, OLDER.checkpoint_id), "it is corrupt"), asked)
    assert isinstance(said, m.MachineProgressed)
    assert said.message == f"{RESTORE_REFUSED}it is corrupt"
    assert evolve(asked, said, T0).restore is None


def test_success_on_the_trunk_advances_it() -> None:
    machine = given(*working(1), sealing())
    [event] = advance(machine, ID, BASE.checkpoint_id, taken=True)
    assert (event.checkpoint_id, event.machine_id) == (FINAL.checkpoint_id, ID)


def sealing(outcome: Outcome = Outcome.SUCCEEDED) -> m.MachineSealingStarted:
    return m.MachineSealingStarted(epoch=1, outcome=outcome, checkpoint_id=FINAL.checkpoint_id)


def test_the_trunk_stays_where_it_is_unless_everything_speaks_for_moving_it() -> None:
    good = given(*working(1), sealing())
    assert advance(good, ID, BASE.checkpoint_id, taken=False) == []
    assert advance(good, ID, NEWER.checkpoint_id, taken=True) == []
    assert advance(replace(good, on_trunk=False), ID, BASE.checkpoint_id, taken=True) == []
    assert advance(given(*working(1), sealing(Outcome.FAILED)), ID, BASE.checkpoint_id, taken=True) == []


def test_terminal_is_terminal() -> None:
    ended = given(*working(1), m.MachineEnded(epoch=1, outcome=Outcome.SUCCEEDED))
    for event in (m.MachineStopRequested(), provisioned(2), m.MachineEnded(outcome=Outcome.LOST)):
        assert evolve(ended, event, LATER) == ended
    assert due(ended) is None
    assert wants(ended, settled=True) is Want.NOTHING
    assert decide(c.Stop(), ended) == []


def test_a_denied_machine_has_ended() -> None:
    denied = m.MachineDenied(
        node="webshop",
        resource=Resource.MONEY,
        unit=Unit.CAD,
        asked=Decimal(2),
        available=Decimal(1),
        allocated=Decimal(1),
        used=Decimal(0),
        reason="too little",
    )
    assert given(requested(), denied).is_ended


def test_what_can_never_be_made_ends_as_failed() -> None:
    assert decide(c.Refuse("no runner"), given(requested(), admitted())) == [
        m.MachineEnded(outcome=Outcome.FAILED, reason="no runner")
    ]
    assert decide(c.Refuse("too big"), given(requested(), admitted(), provisioned(1))) == [
        m.MachineEndingStarted(epoch=1, outcome=Outcome.FAILED, reason="too big")
    ]


def test_holds_come_and_go() -> None:
    queued = m.MachineQueued(hold=Hold.BUDGET, node="webshop")
    assert given(requested(), queued).holds == {Hold.BUDGET}
    assert given(requested(), queued, admitted()).holds == frozenset()
    parked = given(*working(1), m.MachineParked(epoch=1, hold=Hold.USER))
    assert parked.holds == {Hold.USER}
    assert evolve(parked, m.MachineResumed(hold=Hold.USER), T0).holds == frozenset()


def test_only_a_live_phase_wants_an_incarnation_on_the_host() -> None:
    assert {phase for phase in Phase if at_phase(phase).is_live} == LIVE


def test_the_type_of_a_machine_is_what_was_asked_for() -> None:
    assert given(requested()).machine_type is MachineType.SHELL
    assert Machine().machine_type is None
    assert datetime.now(UTC) > T0


@pytest.mark.parametrize("phase", [phase for phase in Phase if phase not in LIVE])
def test_what_is_not_live_cannot_be_lost(phase: Phase) -> None:
    assert decide(replace(LOST, epoch=at_phase(phase).epoch), at_phase(phase)) == []


def test_what_an_incarnation_used_is_not_recorded_a_second_time() -> None:
    line = m.UsageRecorded(
        epoch=1,
        resource_type=Resource.TIME,
        resource_subtype="vm_runtime",
        amount=Decimal(1),
        unit=Unit.MINUTES,
        cost_cad=Decimal(0),
        period_start=T0,
        period_end=LATER,
    )
    ending = m.MachineEndingStarted(epoch=1, outcome=Outcome.FAILED)
    fresh = decide(c.Destroyed(1, (line,)), given(*working(1), ending))
    assert [type(event) for event in fresh] == [m.UsageRecorded, m.MachineEnded]
    again = decide(c.Destroyed(1, (line,)), given(*working(1), line, ending))
    assert [type(event) for event in again] == [m.MachineEnded]
