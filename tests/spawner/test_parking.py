"""A machine that is held parks and goes on, on a real log; budget and gateway are the test's hands."""

from datetime import timedelta
from decimal import Decimal
from uuid import UUID

import pytest
from nats.aio.msg import Msg

from events import machine as m
from events.agent import Stop
from events.base import Time
from events.fresh import now, uuid7
from events.words import CheckpointType, Hold, Outcome, Resource
from hypervisors.port import Unreachable
from services.kit.credentials import IssuerUnreachable
from tests.harness import eventually
from tests.spawner.world import GENESIS, SHOP, World

NO_MONEY = "webshop has 0.10 CAD left, the call may cost 0.40 CAD"


def held(epoch: int = 1, hold: Hold = Hold.BUDGET, until: Time | None = None) -> m.MachineHeld:
    return m.MachineHeld(epoch=epoch, hold=hold, reason=NO_MONEY, until=until)


def topped_up() -> tuple[m.MachineAdmitted, m.MachineResumed]:
    return m.MachineAdmitted(reservation_id=uuid7(), held={Resource.MONEY: Decimal(1)}), m.MachineResumed(
        hold=Hold.BUDGET
    )


async def seals(world: World, machine_id: UUID, epoch: int = 1, outcome: str = "parked") -> UUID:
    """The agent seals as it was told."""
    sealed = uuid7()
    await world.taken(
        sealed, machine_id=machine_id, epoch=epoch, parent_id=GENESIS, snapshot="7" * 64, kind=CheckpointType.PARKING
    )
    await world.finishes(machine_id, epoch, outcome=outcome, checkpoint_id=sealed)
    return sealed


async def parks(world: World, machine_id: UUID) -> UUID:
    await world.works(machine_id)
    await world.ask(machine_id, held())
    await world.until(machine_id, m.MachineDrainingStarted)
    sealed = await seals(world, machine_id)
    await world.until(machine_id, m.MachineParked)
    return sealed


async def goes_on(world: World, machine_id: UUID, epoch: int = 2) -> m.MachineEnded:
    await world.works(machine_id, epoch)
    await world.finishes(machine_id, epoch)
    world.host.die(machine_id, epoch, 0)
    return await world.ended(machine_id)


async def test_a_machine_without_money_parks_and_a_top_up_brings_it_to_its_end(world: World) -> None:
    told: list[Stop] = []

    async def agent(message: Msg) -> None:
        told.append(Stop.model_validate_json(message.data))
        await message.respond(b"{}")

    files = (m.InjectedFile(path="a.txt", text="hello"),)
    async with world.spawner():
        machine_id = await world.machine(files=files)
        await world.bus.nc.subscribe(f"cmd.{SHOP}.{machine_id}.1.Stop", cb=agent)
        sealed = await parks(world, machine_id)
        parked = await world.until(machine_id, m.MachineParked)
        assert parked == m.MachineParked(epoch=1, hold=Hold.BUDGET, checkpoint_id=sealed, reason=NO_MONEY)
        assert (world.host.vms, world.issuer.good) == ({}, set())
        await world.ask(machine_id, topped_up()[0])
        await world.ask(machine_id, topped_up()[1])
        ended = await goes_on(world, machine_id)
    assert [stop.outcome for stop in told] == ["parked"]
    assert (ended.outcome, ended.epoch) == (Outcome.SUCCEEDED, 2)
    spec = world.host.specs[machine_id, 2]
    assert (spec.snapshot, spec.parent_checkpoint_id, spec.files) == ("7" * 64, sealed, ())
    assert [type(event).__name__ for event in await world.story(machine_id)][6:] == [
        "MachineHeld",
        "MachineDrainingStarted",
        "MachineSealingStarted",
        "UsageRecorded",
        "UsageRecorded",
        "UsageRecorded",
        "UsageRecorded",
        "MachineParked",
        "MachineAdmitted",
        "MachineResumed",
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


async def test_a_runner_that_gave_up_on_its_refused_call_parks_all_the_same(world: World) -> None:
    async with world.spawner():
        machine_id = await world.machine()
        await world.works(machine_id)
    await world.ask(machine_id, held())
    await seals(world, machine_id, outcome="failed")
    async with world.spawner():
        await world.until(machine_id, m.MachineParked)
        assert not any(isinstance(event, m.MachineEnded) for event in await world.story(machine_id))


async def test_a_rate_limit_is_lifted_by_its_time_and_waits_for_a_new_admission(world: World) -> None:
    async with world.spawner():
        machine_id = await world.machine()
        await world.works(machine_id)
        await world.ask(machine_id, held(hold=Hold.RATE_LIMIT, until=now() + timedelta(seconds=1)))
        await world.until(machine_id, m.MachineDrainingStarted)
        await seals(world, machine_id)
        await world.until(machine_id, m.MachineParked)
        resumed = await world.until(machine_id, m.MachineResumed)
        assert resumed == m.MachineResumed(hold=Hold.RATE_LIMIT)
        assert sum(world.host.boots.values()) == 1
        await world.ask(machine_id, topped_up()[0])
        ended = await goes_on(world, machine_id)
    assert ended.outcome is Outcome.SUCCEEDED


async def test_a_parking_checkpoint_that_fails_leaves_the_last_good_one(world: World) -> None:
    async with world.spawner():
        machine_id = await world.machine()
        await world.works(machine_id)
        good, bad = uuid7(), uuid7()
        await world.taken(good, machine_id=machine_id, epoch=1, parent_id=GENESIS, snapshot="1" * 64)
        await world.ask(machine_id, held())
        await world.until(machine_id, m.MachineDrainingStarted)
        await world.failed(bad)
        await world.finishes(machine_id, outcome="parked", checkpoint_id=bad)
        parked = await world.until(machine_id, m.MachineParked)
        assert isinstance(parked, m.MachineParked)
        assert parked.checkpoint_id == good


async def test_success_after_a_rest_advances_the_trunk(world: World) -> None:
    async with world.spawner():
        machine_id = await world.machine()
        await parks(world, machine_id)
        for event in topped_up():
            await world.ask(machine_id, event)
        await world.works(machine_id, 2)
        final = uuid7()
        await world.taken(final, machine_id=machine_id, epoch=2, parent_id=GENESIS)
        await world.finishes(machine_id, 2, checkpoint_id=final)
        await world.ended(machine_id)
    assert await world.trunk() == final


async def test_a_parked_machine_that_is_stopped_ends(world: World) -> None:
    async with world.spawner():
        machine_id = await world.machine()
        await parks(world, machine_id)
        await world.ask(machine_id, m.MachineStopRequested(reason="enough"))
        ended = await world.ended(machine_id)
    assert (ended.outcome, ended.reason) == (Outcome.CANCELLED, "enough")


@pytest.mark.parametrize("lost_answer", [False, True], ids=["failed", "answer lost"])
@pytest.mark.parametrize("step", ["revocation", "destruction"])
async def test_a_step_of_parking_that_fails_is_done_again(world: World, step: str, *, lost_answer: bool) -> None:
    revokes = step == "revocation"
    trouble = world.issuer.revoke_trouble if revokes else world.host.destroy_trouble
    error = IssuerUnreachable("no answer") if revokes else Unreachable("no answer")
    async with world.spawner():
        machine_id = await world.machine()
        await world.works(machine_id)
        (trouble.after if lost_answer else trouble.before).extend([error] * 2)
        await world.ask(machine_id, held())
        await world.until(machine_id, m.MachineDrainingStarted)
        await seals(world, machine_id)
        await world.until(machine_id, m.MachineParked)
        assert (world.host.vms, world.issuer.good) == ({}, set())
        for event in topped_up():
            await world.ask(machine_id, event)
        await goes_on(world, machine_id)
    assert sum(isinstance(event, m.MachineParked) for event in await world.story(machine_id)) == 1


@pytest.mark.parametrize("moment", ["held", "draining", "sealing", "parked", "admitted"])
async def test_a_spawner_killed_at_any_moment_of_parking_leaves_a_machine_that_the_next_one_parks_and_resumes(
    world: World, moment: str
) -> None:
    async with world.spawner():
        machine_id = await world.machine()
        await world.works(machine_id)
        if moment in {"draining", "sealing"}:
            await world.ask(machine_id, held())
            await world.until(machine_id, m.MachineDrainingStarted)
        if moment == "sealing":
            world.host.destroy_trouble.always = Unreachable("the host is away")
            await seals(world, machine_id)
            await world.until(machine_id, m.MachineSealingStarted)
        if moment in {"parked", "admitted"}:
            await world.ask(machine_id, held())
            await world.until(machine_id, m.MachineDrainingStarted)
            await seals(world, machine_id)
            await world.until(machine_id, m.MachineParked)
    world.host.destroy_trouble.always = None
    if moment == "held":
        await world.ask(machine_id, held())
    if moment == "admitted":
        for event in topped_up():
            await world.ask(machine_id, event)
    async with world.spawner():
        if moment in {"held", "draining"}:
            await world.until(machine_id, m.MachineDrainingStarted)
            await seals(world, machine_id)
        await world.until(machine_id, m.MachineParked)
        if moment != "admitted":
            for event in topped_up():
                await world.ask(machine_id, event)
        ended = await goes_on(world, machine_id)
    assert (ended.outcome, ended.epoch) == (Outcome.SUCCEEDED, 2)
    assert world.host.most_at_once[machine_id] == 1
    assert sum(isinstance(event, m.MachineParked) for event in await world.story(machine_id)) == 1


async def test_what_a_parked_machine_left_on_the_host_is_swept_away(world: World) -> None:
    async with world.spawner():
        machine_id = await world.machine()
        await parks(world, machine_id)
        await world.host.create(world.host.specs[machine_id, 1])  # as one that came up late
        await eventually(lambda: world.host.vms == {})
