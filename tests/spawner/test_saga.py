"""Every step of a spawn is done twice and failed once, before its work and after it; a kill in between loses nothing."""

import asyncio

import pytest

from events import address as at
from events import machine as m
from events.agent import MachineSpec
from events.fresh import uuid7
from events.project import ProjectUpdated
from events.words import MachineType, Outcome
from hypervisors.port import HypervisorError, Refused, Unreachable
from services.kit.credentials import CredentialsRefused, IssuerUnreachable
from services.spawner.saga import Saga, Spawn
from tests.harness import eventually
from tests.spawner.fakes import FakeHypervisor, FakeIssuer, Trouble
from tests.spawner.world import GENESIS, QUICK, SHOP, World

HICCUPS = {
    "credentials": IssuerUnreachable("no answer"),
    "incarnation": Unreachable("no answer"),
    "revocation": IssuerUnreachable("no answer"),
    "destruction": Unreachable("no answer"),
}


def trouble(world: World, step: str) -> Trouble:
    return {
        "credentials": world.issuer.machine_trouble,
        "incarnation": world.host.create_trouble,
        "revocation": world.issuer.revoke_trouble,
        "destruction": world.host.destroy_trouble,
    }[step]


@pytest.mark.parametrize("lost_answer", [False, True], ids=["failed", "answer lost"])
@pytest.mark.parametrize("step", HICCUPS)
async def test_a_step_that_fails_is_done_again_and_the_machine_lives_on(
    world: World, step: str, *, lost_answer: bool
) -> None:
    found = trouble(world, step)
    (found.after if lost_answer else found.before).extend([HICCUPS[step]] * 2)
    async with world.spawner():
        machine_id = await world.machine()
        await world.works(machine_id)
        await world.finishes(machine_id)
        world.host.die(machine_id, 1, 0)
        ended = await world.ended(machine_id)
    assert ended.outcome is Outcome.SUCCEEDED
    assert world.host.boots[machine_id, 1] == 1
    assert world.host.vms == {}
    assert world.issuer.good == set()


@pytest.mark.parametrize("error", [Refused("asked 9 cores, host has 2"), CredentialsRefused("no such project")])
async def test_what_can_never_be_done_ends_the_machine_and_is_taken_back(world: World, error: Exception) -> None:
    where = world.host.create_trouble if isinstance(error, HypervisorError) else world.issuer.machine_trouble
    where.always = error
    async with world.spawner():
        machine_id = await world.machine()
        ended = await world.ended(machine_id)
    assert ended.outcome is Outcome.FAILED
    assert str(error) in ended.reason
    assert world.issuer.good == set()


async def test_every_step_and_every_undo_may_be_done_twice() -> None:
    host, issuer = FakeHypervisor(), FakeIssuer()
    saga = Saga(host, issuer, QUICK)
    spawn = a_spawn()
    for step in saga.steps:
        await step.do(spawn)
        await step.do(spawn)
    assert sum(host.boots.values()) == 1
    used = []
    for _ in range(2):
        await saga.undo(spawn)
        used.append(spawn.usage)
    assert used[0] == used[1]
    assert (host.vms, issuer.good) == ({}, set())


async def test_an_undo_that_fails_does_not_keep_the_others_from_being_done() -> None:
    host, issuer = FakeHypervisor(), FakeIssuer()
    saga = Saga(host, issuer, QUICK)
    spawn = a_spawn()
    await saga.run(spawn)
    issuer.revoke_trouble.before.append(IssuerUnreachable("no answer"))
    with pytest.raises(IssuerUnreachable):
        await saga.undo(spawn)
    assert host.vms == {}
    await saga.undo(spawn)
    assert issuer.good == set()


def a_spawn() -> Spawn:
    machine_id = uuid7()
    spec = MachineSpec(
        project=SHOP,
        machine_id=machine_id,
        epoch=1,
        machine_type=MachineType.SHELL,
        goal="true",
        snapshot="0" * 64,
        parent_checkpoint_id=GENESIS,
        deadline_in_s=60,
        nats_url="nats://127.0.0.1",
        store="/nowhere",
    )
    return Spawn(SHOP, machine_id, 1, 60, spec=spec)


@pytest.mark.parametrize("moment", ["creating", "created", "working", "sealing"])
async def test_a_spawner_killed_at_any_moment_leaves_a_machine_that_the_next_one_brings_to_its_end(
    world: World, moment: str
) -> None:
    machine_id = await world.machine()
    if moment == "creating":
        world.host.gate.clear()
    if moment == "created":
        world.host.create_trouble.after.extend([Unreachable("the answer was lost")] * 1_000)
    async with world.spawner():
        match moment:
            case "creating":
                await world.until(machine_id, m.MachineProvisioningStarted)
                await eventually(lambda: world.host.creating == 1)
            case "created":
                await eventually(lambda: world.host.boots[machine_id, 1] == 1)
            case "working":
                await world.works(machine_id)
            case _:
                await world.works(machine_id)
                world.host.destroy_trouble.always = Unreachable("the host is away")
                await world.finishes(machine_id)
                await world.until(machine_id, m.MachineSealingStarted)
    world.host.gate.set()
    world.host.create_trouble = Trouble()
    world.host.destroy_trouble = Trouble()
    async with world.spawner():
        if moment != "sealing":
            await world.works(machine_id)
            await world.finishes(machine_id)
        if (machine_id, 1) in world.host.vms:
            world.host.die(machine_id, 1, 0)
        ended = await world.ended(machine_id)
    assert (ended.outcome, ended.epoch) == (Outcome.SUCCEEDED, 1)
    assert world.host.boots[machine_id, 1] == 1
    assert world.host.vms == {}


async def test_a_project_that_moves_while_a_machine_ends_makes_it_decide_again(world: World) -> None:
    async with world.spawner():
        machine_id = await world.machine()
        await world.works(machine_id)
        final = uuid7()
        await world.taken(final, machine_id=machine_id, epoch=1, parent_id=GENESIS)

        async def flutter() -> None:
            for count in range(20):
                await world.happen(at.project(SHOP), ProjectUpdated(description=str(count)))

        fluttering = asyncio.create_task(flutter())
        await world.finishes(machine_id, checkpoint_id=final)
        await world.ended(machine_id)
        await fluttering
    assert await world.trunk() == final
