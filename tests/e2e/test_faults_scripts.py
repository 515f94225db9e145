"""Goals that misbehave: each comes to a clear end, leaves nothing behind, and nobody else has to wait for it."""

import asyncio
import time
from dataclasses import dataclass, field

import pytest

from events.checkpoint import CheckpointTaken
from events.machine import MachineEnded
from events.words import Outcome
from tests.harness import eventually, processes
from tests.harness.hub import RunningHub
from tests.harness.invariants import all_ended, at_work, nothing_twice, told
from tests.harness.knocking import Knocks, knocking

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(180)]

SLOWER_MAX = 3.0
"""How much longer another project's machine may take while a goal misbehaves."""
NOTICEABLE_S = 2.0
"""What a machine may take in any case: a host with two busy cores needs that long now and then."""


@dataclass(frozen=True, slots=True)
class Goal:
    """A script and how it has to end."""

    script: str
    outcome: Outcome
    reason: str = ""
    limits: dict[str, int] = field(default_factory=dict[str, int])


GOALS = {
    "forks for ever": Goal(
        "f() { f | f & }; f; sleep 60", Outcome.EXPIRED, "deadline of 6 s", {"deadline_s": 6, "processes": 64}
    ),
    "takes all memory": Goal(
        "x=x; while :; do x=$x$x; done", Outcome.FAILED, "64 MiB", {"memory_mib": 64, "deadline_s": 30}
    ),
    "floods its output": Goal(
        "head -c 100000000 /dev/zero | tr '\\0' x | fold -w 200", Outcome.SUCCEEDED, "", {"cpu_milli": 2_000}
    ),
    "ignores every signal": Goal(
        "trap '' TERM INT HUP QUIT; while :; do sleep 1; done", Outcome.EXPIRED, "deadline of 3 s", {"deadline_s": 3}
    ),
    "kills its parent": Goal("kill -9 $PPID; kill -9 1; echo still here", Outcome.SUCCEEDED),
    "kills everybody": Goal("kill -9 -1; kill -9 $$", Outcome.FAILED, "SIGKILL"),
    "leaves a grandchild": Goal("setsid -f sleep 1000; (sleep 1000 & disown); echo gone", Outcome.SUCCEEDED),
    "fills its disk with files": Goal(
        "for i in $(seq 1000); do head -c 1000000 /dev/zero > f$i; done; sleep 60",
        Outcome.FAILED,
        "limit 16 MiB",
        {"disk_mib": 16},
    ),
    "fills its disk with one file": Goal("head -c 1G /dev/zero > big", Outcome.FAILED, "", {"disk_mib": 16}),
}


@pytest.mark.parametrize("name", GOALS)
async def test_a_goal_that_misbehaves_comes_to_an_end_and_harms_nobody(hub: RunningHub, name: str) -> None:
    goal = GOALS[name]
    async with knocking(hub) as knocks:
        bad, good = await _projects(knocks, name)
        usual_s = max([await _takes(knocks, good) for _ in range(2)])
        machine = await knocks.machine(bad, goal.script, limits=goal.limits)
        await at_work(hub, [machine])
        beside_s = await _takes(knocks, good)
        ended = (await all_ended(hub, [machine])).ended(machine)
        assert ended is not None
        assert (ended.outcome, goal.reason in ended.reason) == (goal.outcome, True), ended
        assert beside_s < max(SLOWER_MAX * usual_s, NOTICEABLE_S), (
            f"usually {usual_s:.1f} s, beside it {beside_s:.1f} s"
        )
        await _traceless(knocks, machine)


async def test_a_goal_that_ignores_signals_is_stopped_by_command(hub: RunningHub) -> None:
    async with knocking(hub) as knocks:
        bad, _ = await _projects(knocks, "deaf")
        machine = await knocks.machine(bad, "trap '' TERM INT HUP QUIT; while :; do sleep 1; done")
        await at_work(hub, [machine])
        await knocks.ask(bad, "machine", machine, "MachineStopRequested", {"reason": "enough"})
        ended = (await all_ended(hub, [machine], timeout_s=45)).ended(machine)
        assert ended is not None
        assert (ended.outcome, ended.reason) == (Outcome.CANCELLED, "enough")
        await _traceless(knocks, machine)


@pytest.mark.parametrize("files", [100_000])
async def test_a_goal_that_writes_very_many_files_is_captured_whole(hub: RunningHub, files: int) -> None:
    """1,000,000 was tried by hand: it takes minutes, and room for what they count on disk."""
    thousand = "(cd d$d && seq 1000 | split -l 1 -a 4 - f)"
    script = f"for d in $(seq {files // 1000}); do mkdir d$d; {thousand}; done; find . -type f | wc -l"
    async with knocking(hub) as knocks:
        bad, good = await _projects(knocks, f"files-{files}")
        usual_s = max([await _takes(knocks, good) for _ in range(2)])
        machine = await knocks.machine(bad, script, limits={"disk_mib": 16 * files // 1000, "deadline_s": 1_800})
        await at_work(hub, [machine])
        beside_s = await _takes(knocks, good)
        story = await all_ended(hub, [machine], timeout_s=150)
        ended = story.ended(machine)
        assert ended is not None
        assert ended.outcome is Outcome.SUCCEEDED, ended
        taken = next(event for event in story.machine(str(ended.checkpoint_id)) if isinstance(event, CheckpointTaken))
        assert taken.file_count >= files
        assert beside_s < max(SLOWER_MAX * usual_s, NOTICEABLE_S), (
            f"usually {usual_s:.1f} s, beside it {beside_s:.1f} s"
        )
        await _traceless(knocks, machine)


async def _projects(knocks: Knocks, name: str) -> tuple[str, str]:
    slug = name.replace(" ", "-")
    for project in (f"bad-{slug}", f"good-{slug}"):
        await knocks.project(project)
    return f"bad-{slug}", f"good-{slug}"


async def _takes(knocks: Knocks, project: str) -> float:
    """Return how long a small machine takes from the request to its end."""
    client = await knocks.connected()
    ended = await client.subscribe(f"av.{project}.machine.*.MachineEnded")
    await client.flush()
    started_s = time.monotonic()
    machine = await knocks.machine(project, "echo small > small")
    async with asyncio.timeout(60):
        while (message := await ended.next_msg(timeout=60)).subject.split(".")[3] != machine:
            pass
    took_s = time.monotonic() - started_s
    await ended.unsubscribe()
    assert MachineEnded.model_validate_json(message.data).outcome is Outcome.SUCCEEDED
    return took_s


async def _traceless(knocks: Knocks, machine: str) -> None:
    """Nothing of the machine runs or lies about, and what was said of it was said once."""

    def level() -> bool:
        groups = [group for group in processes.groups(knocks.hub.data) if group.name.startswith(machine)]
        assert not groups, groups
        assert not [place for place in (knocks.hub.data / "machines" / machine).glob("*") if place.is_dir()]
        return True

    await eventually(level, timeout_s=30)
    await eventually(lambda: _once(knocks.hub), timeout_s=30, poll_s=0.5)


async def _once(hub: RunningHub) -> bool:
    nothing_twice(await told(hub))
    return True
