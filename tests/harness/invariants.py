"""What must hold of a hub after any fault: nothing acknowledged lost, nothing done twice, everything at an end."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from pathlib import Path
from uuid import UUID, uuid4

from events.base import Event
from events.budget import BudgetReleased, BudgetReserved, BudgetSettled
from events.checkpoint import CheckpointTaken
from events.envelope import Recorded
from events.machine import (
    MachineBooted,
    MachineDenied,
    MachineEnded,
    MachineEvent,
    MachineProvisioningStarted,
    MachineRequested,
    UsageRecorded,
)
from events.project import ProjectAdvanced
from events.words import Outcome
from schema.streams import IN
from services.kit import dead
from services.kit.bus import Bus, BusSettings
from tests.harness import processes
from tests.harness.hub import RunningHub
from tests.harness.knocking import Answer, Knocks
from tests.harness.waiting import eventually

END_S = 90.0


@dataclass(frozen=True, slots=True)
class Story:
    """All that the log tells."""

    events: tuple[Recorded, ...]

    def machine(self, machine: str) -> list[Event]:
        """Return what happened to a machine, in order."""
        return [recorded.event for recorded in self.events if recorded.envelope.address.id == machine]

    def machines(self) -> Mapping[str, list[MachineEvent]]:
        """Return every machine's events, by its id."""
        found: dict[str, list[MachineEvent]] = defaultdict(list)
        for recorded in self.events:
            if isinstance(recorded.event, MachineEvent):
                found[recorded.envelope.address.id].append(recorded.event)
        return found

    def ended(self, machine: str) -> MachineEnded | None:
        return next((event for event in self.machine(machine) if isinstance(event, MachineEnded)), None)

    def provisioned(self, machine: str) -> list[MachineProvisioningStarted]:
        """Return the beginning of each of a machine's incarnations."""
        return [event for event in self.machine(machine) if isinstance(event, MachineProvisioningStarted)]

    def unfinished(self) -> list[str]:
        """Return the machines that were requested and have not come to an end."""
        return [
            machine
            for machine, events in self.machines().items()
            if not any(isinstance(event, MachineEnded | MachineDenied) for event in events)
        ]


async def told(hub: RunningHub) -> Story:
    """Read the whole log."""
    async with _bus(hub) as bus:
        batches = [batch async for batch in bus.log.follow(stop_at_end=True)]
    return Story(tuple(recorded for batch in batches for recorded in batch))


async def at_work(hub: RunningHub, machines: list[str]) -> Story:
    """Wait until each of these machines has started its work."""

    async def level() -> Story:
        story = await told(hub)
        waiting = [m for m in machines if not any(e.type() == "MachineWorkStarted" for e in story.machine(m))]
        assert not waiting, f"{len(waiting)} have not started"
        return story

    return await eventually(level, timeout_s=60, poll_s=0.3)


async def checkpointed(knocks: Knocks, project: str, machine: str) -> str:
    """Have a checkpoint of a machine at work taken, and return its id."""
    checkpoint = str(uuid4())
    await knocks.ask(project, "checkpoint", checkpoint, "CheckpointRequested", {"machine_id": machine})

    async def level() -> bool:
        story = await told(knocks.hub)
        return any(isinstance(event, CheckpointTaken) for event in story.machine(checkpoint))

    await eventually(level, timeout_s=30, poll_s=0.2)
    return checkpoint


async def all_ended(hub: RunningHub, machines: Iterable[str], timeout_s: float = END_S) -> Story:
    """Wait until these machines, and all others, are at an end; return the log."""
    wanted = set(machines)

    async def level() -> Story:
        story = await told(hub)
        missing = wanted - story.machines().keys()
        assert not missing, f"acknowledged and never in the log: {missing}"
        assert not story.unfinished(), {
            machine: [event.type() for event in story.machine(machine)] for machine in story.unfinished()
        }
        return story

    return await eventually(level, timeout_s=timeout_s, poll_s=0.5)


async def proved(hub: RunningHub, knocks: Knocks, machines: Iterable[str] = ()) -> Story:
    """Wait until everything is at an end and prove that the hub did what it promised, once."""
    await all_ended(hub, [*machines, *knocks.taken])
    await eventually(lambda: _all_settled(hub), timeout_s=30, poll_s=0.5)
    story = await told(hub)
    nothing_lost(story, knocks.answers)
    nothing_twice(story)
    await eventually(lambda: _nobody_left(hub), timeout_s=30)
    await _nothing_waits(hub)
    verified = (await hub.ok("verify", "--json", timeout_s=120)).only()
    assert verified["ok"], verified
    return story


def nothing_lost(story: Story, answers: Iterable[Answer]) -> None:
    """What was acknowledged stands in the log where it was said to stand, once."""
    by_seq = {recorded.seq: recorded for recorded in story.events}
    assert list(by_seq) == list(range(1, len(by_seq) + 1))
    counted = Counter(recorded.envelope.id for recorded in story.events)
    assert [twice for twice, count in counted.items() if count > 1] == []
    for answer in answers:
        found = by_seq.get(answer.seq)
        assert found is not None, f"{answer} is lost"
        assert (str(found.envelope.id), found.envelope.address.subject(found.envelope.type)) == (
            answer.id,
            f"av.{answer.subject}",
        )


def nothing_twice(story: Story) -> None:
    """Each machine ends once, each incarnation starts once and after the one before, each amount is paid once."""
    for machine, events in story.machines().items():
        names = Counter(event.type() for event in events)
        told_as = f"{machine}: {[event.type() for event in events]}"
        assert names[MachineRequested.type()] == 1, told_as
        assert names[MachineEnded.type()] + names[MachineDenied.type()] == 1, told_as
        _one_incarnation_at_a_time(events, told_as)
        used = Counter(
            (event.epoch, event.resource_type, event.resource_subtype)
            for event in events
            if isinstance(event, UsageRecorded)
        )
        assert all(count == 1 for count in used.values()), f"{told_as}: {used}"
    _reservations_resolved_once(story)
    _trunk_moved_once_for_a_success(story)


def _one_incarnation_at_a_time(events: list[MachineEvent], told_as: str) -> None:
    epoch, booted = 0, set[int]()
    for event in events:
        if isinstance(event, MachineProvisioningStarted):
            assert event.epoch == epoch + 1, told_as
            epoch = event.epoch
        elif isinstance(event, MachineBooted):
            assert event.epoch == epoch, told_as
            assert epoch not in booted, told_as
            booted.add(epoch)


def _reservations_resolved_once(story: Story) -> None:
    reserved, resolved = Counter[tuple[str, UUID]](), Counter[tuple[str, UUID]]()
    for recorded in story.events:
        node = str(recorded.envelope.address)
        match recorded.event:
            case BudgetReserved(reservation_id=reservation):
                reserved[node, reservation] += 1
            case BudgetSettled(reservation_id=reservation) | BudgetReleased(reservation_id=reservation):
                resolved[node, reservation] += 1
            case _:
                pass
    assert reserved == resolved
    assert all(count == 1 for count in reserved.values()), reserved


def _trunk_moved_once_for_a_success(story: Story) -> None:
    moved = Counter(
        str(recorded.event.machine_id)
        for recorded in story.events
        if isinstance(recorded.event, ProjectAdvanced) and recorded.event.machine_id
    )
    for machine, count in moved.items():
        ended = story.ended(machine)
        assert count == 1, f"machine {machine} moved the trunk {count} times"
        assert ended is not None
        assert ended.outcome is Outcome.SUCCEEDED


async def nothing_left(hub: RunningHub, known: list[processes.Process], timeout_s: float) -> None:
    """Wait until nothing runs that the hub started."""

    def level() -> bool:
        left = processes.left_over(hub.data, known)
        assert not left, [(process.pid, process.command[:120]) for process in left]
        return True

    await eventually(level, timeout_s=timeout_s)


async def _all_settled(hub: RunningHub) -> bool:
    """What a machine used is settled soon after its end."""
    _reservations_resolved_once(await told(hub))
    return True


def _nobody_left(hub: RunningHub) -> bool:
    """With every machine at an end there is no sandbox, no control group and no directory of one."""
    assert not processes.in_groups(hub.data)
    assert not processes.groups(hub.data), processes.groups(hub.data)
    left = [place for place in (hub.data / "machines").glob("*/*") if place.is_dir()]
    assert not left, left
    return True


async def _nothing_waits(hub: RunningHub) -> None:
    """The door has taken everything, and nothing was given up on."""
    async with _bus(hub) as bus:

        async def level() -> bool:
            return (await bus.js.stream_info(IN)).state.messages == 0

        await eventually(level, timeout_s=40, poll_s=0.2)
        letters = [letter.letter async for letter in dead.letters(bus)]
        assert not letters, letters


def _bus(hub: RunningHub) -> AbstractAsyncContextManager[Bus]:
    settings = BusSettings(nats_url=hub.context.nats_url, nats_creds=Path(hub.context.hub_creds))
    return Bus.connect(settings, name="invariants")
