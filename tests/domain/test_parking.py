"""A machine that is held rests and goes on: given its history, when something happens, then this follows."""

from dataclasses import replace
from datetime import timedelta
from uuid import UUID

import pytest

from domain import machine_commands as c
from domain.holds import Held
from domain.machine import Want, decide, wants
from domain.machine_state import Machine, due, evolve, goal_left_s, is_sealed_late
from events import machine as m
from events.base import Event
from events.words import Hold, Outcome, Phase
from tests.domain.machine_cases import (
    BASE,
    FINAL,
    LATER,
    NEWER,
    OLDER,
    T0,
    admitted,
    booted,
    given,
    provisioned,
    working,
)

HELD = m.MachineHeld(epoch=1, hold=Hold.BUDGET, reason="webshop has 0.10 CAD left, the call may cost 0.40")
LIMITED = m.MachineHeld(epoch=1, hold=Hold.RATE_LIMIT, reason="429", until=T0 + timedelta(hours=1))
PARKED = m.MachineParked(epoch=1, hold=Hold.BUDGET, checkpoint_id=NEWER.checkpoint_id, reason="no money")
AGAIN = m.MachineAdmitted(reservation_id=UUID(int=10), held={})
RESUMED = m.MachineResumed(hold=Hold.BUDGET)


def then(machine: Machine, *events: Event) -> Machine:
    for event in events:
        machine = evolve(machine, event, T0)
    return machine


def after(command: c.Command, machine: Machine) -> Machine:
    return then(machine, *decide(command, machine))


def parking() -> Machine:
    return after(c.Park(), given(*working(1), HELD))


def test_a_held_machine_drains_seals_and_rests_without_an_outcome() -> None:
    draining = parking()
    assert draining.is_parking
    assert draining.phase is Phase.DRAINING
    assert wants(draining, settled=True) is Want.STOP_AGENT
    sealing = after(c.Finished(1, None, 130, "", FINAL.checkpoint_id), draining)
    assert wants(sealing, settled=True) is Want.TAKE_DOWN
    [parked] = decide(c.Destroyed(1, last_good=FINAL.checkpoint_id), sealing)
    assert parked == m.MachineParked(
        epoch=1, hold=Hold.BUDGET, checkpoint_id=FINAL.checkpoint_id, reason=HELD.reason, until=None
    )
    rests = then(sealing, parked)
    assert (rests.phase, rests.reservation_id, rests.holds) == (Phase.PARKED, None, {Hold.BUDGET})
    assert wants(rests, settled=True) is Want.NOTHING


def test_a_held_machine_is_told_so_once() -> None:
    assert decide(c.Park(), then(parking(), HELD)) == []
    assert decide(c.Park(), given(*working(1))) == []


def test_a_runner_that_ended_because_its_call_was_refused_parks_and_does_not_fail() -> None:
    [sealing] = decide(c.Finished(1, Outcome.FAILED, 1, "exit code 1", FINAL.checkpoint_id), given(*working(1), HELD))
    assert isinstance(sealing, m.MachineSealingStarted)
    assert (sealing.outcome, sealing.exit_code, sealing.checkpoint_id) == (None, 1, FINAL.checkpoint_id)


def test_that_holds_when_the_hold_is_lifted_before_the_agent_has_said_so() -> None:
    machine = given(*working(1), HELD, RESUMED)
    [sealing] = decide(c.Finished(1, Outcome.FAILED, 1), machine)
    assert isinstance(sealing, m.MachineSealingStarted)
    assert sealing.outcome is None
    assert then(machine, sealing, replace_hold(PARKED)).holds == frozenset()


def replace_hold(parked: m.MachineParked, hold: Hold = Hold.BUDGET) -> m.MachineParked:
    return parked.model_copy(update={"hold": hold})


@pytest.mark.parametrize("outcome", [Outcome.SUCCEEDED, Outcome.EXPIRED])
def test_a_goal_that_is_done_or_out_of_time_has_ended_though_it_was_held(outcome: Outcome) -> None:
    [sealing] = decide(c.Finished(1, outcome, 0), parking())
    assert isinstance(sealing, m.MachineSealingStarted)
    assert sealing.outcome is outcome


def test_a_failure_that_no_hold_explains_is_a_failure() -> None:
    [sealing] = decide(c.Finished(1, Outcome.FAILED, 1), given(*working(1)))
    assert isinstance(sealing, m.MachineSealingStarted)
    assert sealing.outcome is Outcome.FAILED


def test_a_hold_on_an_epoch_that_is_over_holds_nobody() -> None:
    second = given(*working(1), m.MachineRecoveryStarted(epoch=1, attempt=1, reason="gone"), *working(2)[2:], HELD)
    assert (second.holds, decide(c.Park(), second)) == (frozenset(), [])
    recovering = given(*working(1), m.MachineRecoveryStarted(epoch=1, attempt=1, reason="gone"), HELD)
    assert recovering.holds == frozenset()


@pytest.mark.parametrize("cut", [3, 4], ids=["provisioning", "starting"])
def test_a_hold_during_the_start_parks_as_soon_as_it_works(cut: int) -> None:
    machine = given(*working(1)[:cut], HELD)
    assert decide(c.Park(), machine) == []
    machine = then(machine, *working(1)[cut:])
    [draining] = decide(c.Park(), machine)
    assert isinstance(draining, m.MachineDrainingStarted)


def test_a_hold_while_nobody_hears_the_machine_parks_it_when_it_is_heard_or_lost() -> None:
    silent = given(*working(1), m.MachineContactLost(epoch=1), HELD)
    assert decide(c.Park(), silent) == []
    heard = after(c.BeatSeen(1), silent)
    assert decide(c.Park(), heard)
    [sealing] = decide(c.Lost(1, "silent for 120 s", (BASE,), T0), silent)
    assert isinstance(sealing, m.MachineSealingStarted)
    assert sealing.outcome is None
    assert wants(then(silent, sealing), settled=True, gone=True) is Want.TAKE_DOWN


def test_an_incarnation_lost_while_it_parks_rests_on_its_last_good_checkpoint() -> None:
    machine = after(c.Lost(1, "gone", (NEWER, BASE), T0), parking())
    assert machine.is_parking
    rests = after(c.Destroyed(1, last_good=NEWER.checkpoint_id), machine)
    assert (rests.phase, rests.next_from) == (Phase.PARKED, NEWER.checkpoint_id)


def test_a_parking_that_takes_too_long_is_taken_down_without_its_checkpoint() -> None:
    sealing = after(c.DeadlinePassed(T0 + timedelta(seconds=61)), parking())
    assert sealing.phase is Phase.SEALING
    assert not is_sealed_late(sealing, T0 + timedelta(seconds=299))
    assert is_sealed_late(sealing, T0 + timedelta(seconds=300))
    assert wants(sealing, settled=True, late=True) is Want.TAKE_DOWN
    rests = after(c.DeadlinePassed(T0 + timedelta(seconds=601), last_good=OLDER.checkpoint_id), sealing)
    assert (rests.phase, rests.next_from) == (Phase.PARKED, OLDER.checkpoint_id)


def test_what_is_topped_up_and_admitted_anew_goes_on_in_the_next_epoch() -> None:
    rests = given(*working(1), HELD, PARKED)
    assert wants(then(rests, AGAIN), settled=True) is Want.PROVISION
    assert wants(then(rests, RESUMED), settled=True) is Want.NOTHING
    goes = then(rests, AGAIN, RESUMED)
    assert wants(goes, settled=True) is Want.PROVISION
    [started] = decide(c.Provision("local", "here", NEWER, on_trunk=False, fenced=1), goes)
    assert started == provisioned(2, NEWER)
    assert then(goes, started).parks_for is None


def test_an_admission_that_comes_while_it_parks_is_not_lost() -> None:
    rests = then(parking(), AGAIN, RESUMED, PARKED)
    assert (rests.reservation_id, rests.holds) == (AGAIN.reservation_id, frozenset())
    assert wants(rests, settled=True) is Want.PROVISION


def test_each_of_several_holds_must_go() -> None:
    rests = given(*working(1), HELD, LIMITED, PARKED, AGAIN, RESUMED)
    assert rests.holds == {Hold.RATE_LIMIT}
    assert wants(rests, settled=True) is Want.NOTHING
    assert wants(then(rests, m.MachineResumed(hold=Hold.RATE_LIMIT)), settled=True) is Want.PROVISION


def test_a_hold_with_a_time_is_lifted_when_it_has_passed_and_not_before() -> None:
    rests = given(*working(1), LIMITED, replace_hold(PARKED, Hold.RATE_LIMIT))
    came = due(rests)
    assert came is not None
    assert timedelta(hours=1) <= came - T0 <= timedelta(hours=1, seconds=30)
    assert decide(c.DeadlinePassed(came - timedelta(seconds=1)), rests) == []
    assert decide(c.DeadlinePassed(came), rests) == [m.MachineResumed(hold=Hold.RATE_LIMIT)]
    lifted = after(c.DeadlinePassed(came), rests)
    assert due(lifted) == T0 + timedelta(days=30)


def test_machines_held_until_the_same_moment_come_back_spread_out() -> None:
    held = Held(Hold.RATE_LIMIT, "", T0 + timedelta(seconds=60), T0)
    times = {held.released_at(UUID(int=seed)) for seed in range(0, 10_000, 100)}
    assert len(times) == 100
    assert all(held.until and each and timedelta(0) <= each - held.until <= timedelta(seconds=6) for each in times)


def test_the_goals_time_does_not_run_while_it_is_parked() -> None:
    parked = given(*working(1), HELD)
    parked = evolve(parked, PARKED, T0 + timedelta(seconds=100))
    assert goal_left_s(parked, T0 + timedelta(days=1)) == 3_500.0
    back = parked
    for event in (AGAIN, RESUMED, *working(2)[2:]):
        back = evolve(back, event, T0 + timedelta(seconds=1_100))
    assert goal_left_s(back, T0 + timedelta(seconds=1_200)) == 3_400.0
    assert due(back) == T0 + timedelta(seconds=3_600 + 1_000 + 5)


@pytest.mark.parametrize("machine", [parking(), after(c.Finished(1, None), parking())], ids=["draining", "sealing"])
def test_a_machine_stopped_on_its_way_to_rest_ends(machine: Machine) -> None:
    stopped = then(machine, m.MachineStopRequested(reason="enough"))
    ending = after(c.Stop(), stopped)
    assert (ending.is_parking, decide(c.Stop(), ending)) == (False, [])
    sealing = after(c.Finished(1, None, checkpoint_id=FINAL.checkpoint_id), ending)
    [ended] = decide(c.Destroyed(1, last_good=FINAL.checkpoint_id), sealing)
    assert isinstance(ended, m.MachineEnded)
    assert (ended.outcome, ended.reason) == (Outcome.CANCELLED, "enough")


def test_a_parked_machine_can_be_ended() -> None:
    rests = given(*working(1), HELD, PARKED, m.MachineStopRequested(reason="enough"))
    assert decide(c.Stop(), rests) == [m.MachineEndingStarted(epoch=1, outcome=Outcome.CANCELLED, reason="enough")]
    assert wants(then(rests, AGAIN, RESUMED), settled=True) is Want.NOTHING


def test_a_parked_machine_that_is_restored_goes_on_from_there() -> None:
    rests = given(*working(1), HELD, PARKED, m.MachineRestoreRequested(checkpoint_id=OLDER.checkpoint_id))
    assert decide(c.Restore(UUID(int=0)), rests) == []
    [said] = decide(c.Restore(UUID(int=0), "it is corrupt"), rests)
    assert then(rests, said).restore is None
    back = then(rests, AGAIN, RESUMED, provisioned(2, OLDER), booted(2))
    assert (back.restore, back.base) == (None, OLDER)


def test_no_room_yet_leaves_a_parked_machine_parked() -> None:
    queued = m.MachineQueued(hold=Hold.CAPACITY, node="_hub")
    rests = given(*working(1), HELD, PARKED, RESUMED, queued)
    assert (rests.phase, rests.holds) == (Phase.PARKED, {Hold.CAPACITY})
    assert wants(then(rests, AGAIN), settled=True) is Want.PROVISION


def test_recovery_attempts_begin_anew_after_a_rest() -> None:
    tired = given(*working(1), m.MachineRecoveryStarted(epoch=1, attempt=3, reason="x"), *working(2)[2:])
    held = replace(tired, parks_for=Held(Hold.BUDGET))
    assert then(held, PARKED.model_copy(update={"epoch": 2})).attempts == 0


def test_the_exit_code_of_a_parked_incarnation_is_not_the_next_ones() -> None:
    rests = then(after(c.Finished(1, Outcome.FAILED, 7), parking()), PARKED)
    back = then(rests, AGAIN, RESUMED, *working(2)[2:])
    [sealing] = decide(c.Finished(2, Outcome.SUCCEEDED, 0), back)
    [ended] = decide(c.Destroyed(2), then(back, sealing))
    assert isinstance(ended, m.MachineEnded)
    assert (ended.outcome, ended.exit_code, ended.epoch) == (Outcome.SUCCEEDED, 0, 2)
    assert admitted().reservation_id != AGAIN.reservation_id
    assert T0 < LATER
