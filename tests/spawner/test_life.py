"""A machine from its admission to its end, on a real log."""

from datetime import timedelta
from decimal import Decimal
from itertools import pairwise
from uuid import UUID

from nats.aio.msg import Msg

from events import machine as m
from events.fresh import uuid7
from events.words import MachineType, Outcome, Resource
from tests.harness import eventually
from tests.spawner.world import EMPTY, GENESIS, SHOP, World


async def test_an_admitted_machine_lives_from_its_first_incarnation_to_its_end(world: World) -> None:
    async with world.spawner():
        machine_id = await world.machine()
        await world.works(machine_id)
        final = uuid7()
        await world.taken(final, machine_id=machine_id, epoch=1, parent_id=GENESIS)
        await world.finishes(machine_id, checkpoint_id=final)
        ended = await world.ended(machine_id)
    assert (ended.outcome, ended.exit_code, ended.checkpoint_id) == (Outcome.SUCCEEDED, 0, final)
    assert [type(event).__name__ for event in await world.story(machine_id)] == [
        "MachineRequested",
        "MachineAdmitted",
        "MachineProvisioningStarted",
        "MachineBooted",
        "MachineBecameReady",
        "MachineWorkStarted",
        "MachineSealingStarted",
        "UsageRecorded",
        "UsageRecorded",
        "UsageRecorded",
        "UsageRecorded",
        "MachineEnded",
    ]
    assert world.host.vms == {}
    assert world.issuer.good == set()
    assert await world.trunk() == final


async def test_the_host_is_asked_for_what_was_requested(world: World) -> None:
    limits = m.Limits(cpu_milli=500, memory_mib=64, deadline_s=77)
    files = (m.InjectedFile(path="a.txt", text="hello"),)
    async with world.spawner():
        machine_id = await world.machine(limits=limits, files=files)
        await world.until(machine_id, m.MachineBooted)
    spec = world.host.specs[machine_id, 1]
    assert (spec.project, spec.goal, spec.snapshot, spec.parent_checkpoint_id) == (SHOP, "make test", EMPTY, GENESIS)
    assert (spec.limits, spec.files, spec.deadline_in_s, spec.store) == (limits, files, 77.0, "/nowhere")
    assert spec.nats_creds == f"creds of {machine_id} 1 for {77 + 900} s"


async def test_what_a_machine_used_is_recorded_by_its_limits(world: World) -> None:
    async with world.spawner():
        machine_id = await world.machine()
        await world.works(machine_id)
        await world.finishes(machine_id, outcome="failed")
        world.host.die(machine_id, 1, 0)
        await world.ended(machine_id)
    usage = [event for event in await world.story(machine_id) if isinstance(event, m.UsageRecorded)]
    assert [line.resource_type for line in usage] == [
        Resource.TIME,
        Resource.CPU,
        Resource.MEMORY,
        Resource.STORAGE,
    ]
    measured = {"cpu_s": "1.500", "memory_byte_s": "0", "memory_peak_bytes": "4096"}
    assert all(line.metadata == measured for line in usage)
    assert all(line.amount > 0 for line in usage)


async def test_what_a_machine_at_work_uses_is_recorded_now_and_then_and_no_moment_twice(world: World) -> None:
    world.settings = world.settings.model_copy(update={"meter_s": 0.05})

    async def spans(many: int = 0) -> list[m.UsageRecorded]:
        story = await world.story(machine_id)
        found = [line for line in story if isinstance(line, m.UsageRecorded) and line.resource_type is Resource.TIME]
        return found if len(found) >= many else []

    async with world.spawner():
        machine_id = await world.machine()
        await world.works(machine_id)
        await eventually(lambda: spans(3))
    before = len(await spans())
    async with world.spawner():  # another process goes on where the first one stopped
        await eventually(lambda: spans(before + 2))
        await world.finishes(machine_id, outcome="failed")
        world.host.die(machine_id, 1, 0)
        await world.ended(machine_id)
    lines = await spans()
    assert all(one.period_end == next_one.period_start for one, next_one in pairwise(lines))
    ran = lines[-1].period_end - lines[0].period_start
    minutes = sum(line.amount for line in lines)
    assert abs(minutes * 60 - Decimal(ran / timedelta(seconds=1))) < Decimal("0.000001")


async def test_a_machine_stopped_while_it_works_is_told_so_until_it_finishes(world: World) -> None:
    told: list[bytes] = []

    async def agent(message: Msg) -> None:
        told.append(message.data)
        if len(told) > 1:
            await message.respond(b"{}")

    async with world.spawner():
        machine_id = await world.machine()
        await world.bus.nc.subscribe(f"cmd.{SHOP}.{machine_id}.1.Stop", cb=agent)
        await world.works(machine_id)
        await world.ask(machine_id, m.MachineStopRequested(reason="enough"))
        await world.until(machine_id, m.MachineDrainingStarted)
        await eventually(lambda: len(told) > 1)
        await world.finishes(machine_id, outcome="cancelled")
        world.host.die(machine_id, 1, 0)
        ended = await world.ended(machine_id)
    assert ended.outcome is Outcome.CANCELLED
    assert b"enough" in told[0]


async def test_a_machine_stopped_before_it_has_an_incarnation_ends_at_once(world: World) -> None:
    machine_id = await world.machine()
    await world.ask(machine_id, m.MachineStopRequested(reason="enough"))
    async with world.spawner():
        ended = await world.ended(machine_id)
    assert (ended.outcome, ended.epoch) == (Outcome.CANCELLED, 0)
    assert world.host.boots == {}


async def test_a_machine_without_a_runner_ends_as_failed_and_says_why(world: World) -> None:
    async with world.spawner():
        machine_id = await world.machine(machine_type=MachineType.AIDER)
        ended = await world.ended(machine_id)
    assert ended.outcome is Outcome.FAILED
    assert "aider" in ended.reason


async def test_a_machine_from_a_checkpoint_that_does_not_exist_ends_as_failed(world: World) -> None:
    async with world.spawner():
        nowhere = UUID(int=5)
        machine_id = await world.machine(from_checkpoint_id=nowhere)
        ended = await world.ended(machine_id)
    assert ended.outcome is Outcome.FAILED
    assert str(nowhere) in ended.reason


async def test_a_branch_does_not_move_the_trunk(world: World) -> None:
    async with world.spawner():
        machine_id = await world.machine(from_checkpoint_id=GENESIS)
        await world.works(machine_id)
        final = uuid7()
        await world.taken(final, machine_id=machine_id, epoch=1, parent_id=GENESIS)
        await world.finishes(machine_id, checkpoint_id=final)
        ended = await world.ended(machine_id)
    assert ended.checkpoint_id == final
    assert await world.trunk() == GENESIS


async def test_a_failed_final_checkpoint_is_no_outcome(world: World) -> None:
    async with world.spawner():
        machine_id = await world.machine()
        await world.works(machine_id)
        good, final = uuid7(), uuid7()
        await world.taken(good, machine_id=machine_id, epoch=1, parent_id=GENESIS)
        await world.finishes(machine_id, checkpoint_id=final)
        await world.until(machine_id, m.MachineSealingStarted)
        await world.failed(final)
        ended = await world.ended(machine_id)
    assert (ended.outcome, ended.checkpoint_id) == (Outcome.SUCCEEDED, good)
    assert await world.trunk() == GENESIS


async def test_many_machines_are_made_with_no_more_at_once_than_the_setting_says(world: World) -> None:
    world.settings = world.settings.model_copy(update={"starts_max": 3})
    world.host.gate.clear()
    async with world.spawner():
        machines = [await world.machine() for _ in range(10)]
        await eventually(lambda: world.host.creating == 3)
        world.host.gate.set()
        for machine_id in machines:
            await world.until(machine_id, m.MachineBooted)
    assert world.host.creating_most == 3


async def test_a_phase_that_lasts_has_a_timer_in_the_log_and_an_ended_machine_has_none(world: World) -> None:
    async def timers() -> int:
        return (await world.bus.js.stream_info("TIMERS", subjects_filter="avt.sched.>")).state.messages

    async with world.spawner():
        machine_id = await world.machine()
        await world.works(machine_id)
        await eventually(timers)
        await world.finishes(machine_id)
        world.host.die(machine_id, 1, 0)
        await world.ended(machine_id)

        async def none_left() -> bool:
            return await timers() == 0

        await eventually(none_left)


async def test_a_goal_that_takes_longer_than_its_deadline_is_told_to_stop_as_expired(world: World) -> None:
    limits = m.Limits(deadline_s=1)
    async with world.spawner():
        machine_id = await world.machine(limits=limits)
        await world.works(machine_id)
        draining = await world.until(machine_id, m.MachineDrainingStarted)
        assert isinstance(draining, m.MachineDrainingStarted)
        assert draining.outcome is Outcome.EXPIRED
        await world.finishes(machine_id, outcome="expired")
        world.host.die(machine_id, 1, 0)
        assert (await world.ended(machine_id)).outcome is Outcome.EXPIRED
