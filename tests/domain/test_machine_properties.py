"""Whatever arrives in whatever order, how often it arrives and whatever fails: these hold for every machine."""

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from uuid import UUID

from hypothesis import given, settings
from hypothesis import strategies as st

from domain import machine_commands as c
from domain.machine import Want, awaited, decide, safety_id, wants
from domain.machine_state import Machine, due, evolve, is_sealed_late
from domain.tariff import Tariff
from domain.usage import usage_of
from events import machine as m
from events.base import Event
from events.words import Hold, Outcome, Phase
from tests.domain.machine_cases import BASE, FINAL, ID, NEWER, OLDER, T0, admitted, requested

AGAIN = m.MachineAdmitted(reservation_id=UUID(int=77), held={})
CANDIDATES = (NEWER, OLDER, BASE)
ENDS_WITHIN = 100
"""Effects and deadlines from anywhere to the end when nobody answers any more: 4 incarnations at 6 phases each."""


@dataclass
class World:
    """A machine, its log and its host, where every effect may fail and every report come late."""

    machine: Machine = field(default_factory=Machine)
    log: list[Event] = field(default_factory=list[Event])
    host: set[int] = field(default_factory=set[int])
    settled: set[UUID] = field(default_factory=set[UUID])
    now: datetime = T0

    def record(self, *events: Event) -> None:
        for event in events:
            self.log.append(event)
            self.machine = evolve(self.machine, event, self.now)
        assert len(self.host) <= 1, "two incarnations live at once"

    def do(self, command: c.Command) -> None:
        self.record(*decide(command, self.machine))

    def effect(self, *, works: bool) -> None:
        """Do once what the machine's state asks of the host; `works` False: the host does not answer."""
        waits_for = awaited(self.machine)
        want = wants(
            self.machine,
            settled=waits_for is None or waits_for in self.settled,
            gone=self.machine.epoch not in self.host,
            late=is_sealed_late(self.machine, self.now),
        )
        epoch = self.machine.epoch
        usage = usage_of(self.machine, self.now, Tariff())
        if not works:
            return
        if want is Want.SPAWN:
            self.host.add(epoch)
            self.do(c.Booted(epoch, f"vm-{epoch}"))
        elif want is Want.PROVISION:
            self.host.discard(epoch)
            self.do(c.Provision("local", "here", BASE, on_trunk=True, fenced=epoch, usage=usage))
        elif want is Want.TAKE_DOWN:
            self.host.discard(epoch)
            self.do(c.Destroyed(epoch, usage, BASE.checkpoint_id))


Step = Callable[[World], None]


def by_epoch(make: Callable[[World, int], c.Command]) -> list[Step]:
    """What this, the last and a coming incarnation may say."""
    return [
        lambda world, back=back: world.do(make(world, max(1, world.machine.epoch - back))) for back in (0, 0, 0, 1, -1)
    ]


def by_hold(make: Callable[[int, Hold], m.MachineEvent]) -> list[Step]:
    """What budget, gateway and spawner may say of holds, of this incarnation or the last."""
    return [
        lambda world, hold=hold, back=back: world.record(make(max(1, world.machine.epoch - back), hold))
        for hold in (Hold.BUDGET, Hold.RATE_LIMIT)
        for back in (0, 1)
    ]


def restore(world: World) -> None:
    target = world.machine.restore
    if target is not None:
        world.do(c.Restore(safety_id(ID, world.machine.epoch, target)))


def wait(world: World, seconds: int) -> None:
    world.now += timedelta(seconds=seconds)


def work(world: World) -> None:
    world.effect(works=True)


STEPS: list[Step] = [
    *[work] * 8,
    *by_epoch(lambda _, epoch: c.Restored(epoch, 5)),
    *by_epoch(lambda world, epoch: c.Progressed(epoch, "so far", None, world.now)),
    *by_epoch(lambda _, epoch: c.Finished(epoch, Outcome.SUCCEEDED, 0, "", FINAL.checkpoint_id)),
    *by_epoch(lambda _, epoch: c.Finished(epoch, Outcome.FAILED, 1)),
    *by_epoch(lambda _, epoch: c.BeatsMissed(epoch)),
    *by_epoch(lambda _, epoch: c.BeatSeen(epoch)),
    *by_epoch(lambda world, epoch: c.Lost(epoch, "gone", CANDIDATES, world.now)),
    lambda world: world.record(m.MachineStopRequested(reason="enough")),
    lambda world: world.do(c.Stop()),
    lambda world: world.record(m.MachineRestoreRequested(checkpoint_id=OLDER.checkpoint_id)),
    lambda world: world.record(m.MachineRestoreRequested(checkpoint_id=NEWER.checkpoint_id)),
    *by_epoch(lambda _, epoch: c.Finished(epoch, None, 130, "", FINAL.checkpoint_id)),
    *by_hold(lambda epoch, hold: m.MachineHeld(epoch=epoch, hold=hold, reason="short", until=T0)),
    *by_hold(lambda _, hold: m.MachineResumed(hold=hold)),
    lambda world: world.record(AGAIN),
    lambda world: world.do(c.Park()),
    restore,
    lambda world: world.settled.add(awaited(world.machine) or FINAL.checkpoint_id),
    lambda world: world.do(c.CheckpointSettled(awaited(world.machine) or ID, taken=False, reason="disk full")),
    lambda world: world.do(c.DeadlinePassed(world.now, CANDIDATES)),
    lambda world: wait(world, 1),
    lambda world: wait(world, 60),
    lambda world: wait(world, 400),
    lambda world: world.record(m.MachineQuarantined(epoch=max(1, world.machine.epoch), reason="odd")),
    lambda world: world.do(c.Refuse("too big")),
]


def asked() -> World:
    world = World()
    world.record(requested(), admitted())
    return world


def play(steps: list[int]) -> World:
    world = asked()
    for step in steps:
        if not world.machine.is_ended:
            STEPS[step](world)
    return world


STORIES = st.lists(st.integers(0, len(STEPS) - 1), max_size=60)


@settings(max_examples=400, deadline=None)
@given(steps=STORIES, host_works=st.booleans())
def test_every_story_ends_exactly_once_by_deadlines_alone(*, steps: list[int], host_works: bool) -> None:
    world = play(steps)
    for _ in range(ENDS_WITHIN):
        came = due(world.machine)
        if came is None:
            break
        world.effect(works=host_works)
        world.now = max(world.now, came)
        world.do(c.DeadlinePassed(world.now, CANDIDATES))
    assert world.machine.is_ended
    assert [type(event) for event in world.log].count(m.MachineEnded) == 1
    assert isinstance(world.log[-1], m.MachineEnded)


@settings(max_examples=400, deadline=None)
@given(STORIES)
def test_epochs_count_up_by_one_and_never_begin_before_the_last_is_fenced(steps: list[int]) -> None:
    world = play(steps)
    epochs = [event.epoch for event in world.log if isinstance(event, m.MachineProvisioningStarted)]
    assert epochs == list(range(1, len(epochs) + 1))


@settings(max_examples=200, deadline=None)
@given(STORIES)
def test_the_end_is_accepted_wherever_a_story_stands(steps: list[int]) -> None:
    world = play(steps)
    world.record(m.MachineStopRequested(reason="enough"))
    world.do(c.Stop())
    assert world.machine.phase in {Phase.DRAINING, Phase.SEALING, Phase.ENDING, Phase.ENDED}
    assert not world.machine.is_parking


@settings(max_examples=200, deadline=None)
@given(STORIES, st.lists(st.integers(0, len(STEPS) - 1), max_size=10))
def test_any_prefix_of_a_log_can_be_folded_and_decided_on(steps: list[int], then: list[int]) -> None:
    world = play(steps)
    for cut in range(len(world.log) + 1):
        machine = Machine()
        for event in world.log[:cut]:
            machine = evolve(machine, event, T0)
        for step in then:
            STEPS[step](World(machine=machine))


@settings(max_examples=200, deadline=None)
@given(STORIES)
def test_each_incarnations_use_of_the_host_is_recorded_at_most_once(steps: list[int]) -> None:
    world = play(steps)
    used = [(event.epoch, event.resource_type) for event in world.log if isinstance(event, m.UsageRecorded)]
    assert len(used) == len(set(used))


@given(st.lists(st.sampled_from([Hold.BUDGET, Hold.CAPACITY]), max_size=4))
def test_a_machine_that_is_never_admitted_ends_when_its_time_in_the_queue_is_up(holds: list[Hold]) -> None:
    world = World()
    world.record(requested())
    for hold in holds:
        world.record(m.MachineQueued(hold=hold, node="webshop"))  # type: ignore[arg-type]  # sampled from the two
    came = due(world.machine)
    assert came is not None
    world.do(c.DeadlinePassed(came))
    assert world.machine.is_ended


@settings(max_examples=200, deadline=None)
@given(STORIES)
def test_a_machine_that_rests_has_nothing_on_the_host_and_one_that_goes_on_was_admitted_anew(steps: list[int]) -> None:
    world = asked()
    admissions = 1
    for step in steps:
        if world.machine.is_ended:
            break
        before = len(world.log)
        STEPS[step](world)
        for event in world.log[before:]:
            admissions += isinstance(event, m.MachineAdmitted)
            rests = isinstance(event, m.MachineParked)
            assert not (rests and world.machine.epoch in world.host), "it rests while its incarnation runs"
            admissions = 0 if rests and world.machine.reservation_id is None else admissions
            if isinstance(event, m.MachineProvisioningStarted):
                assert admissions > 0
