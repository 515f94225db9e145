"""What is lost is recovered or ended; what nobody wants is destroyed; nothing runs twice."""

from dataclasses import replace
from uuid import UUID

from events import address as at
from events import machine as m
from events.agent import AgentFinished, AgentRegistered
from events.checkpoint import CheckpointCorrupted
from events.fresh import uuid7
from events.words import Outcome
from hypervisors.port import SelfTest
from tests.harness import eventually
from tests.spawner.world import GENESIS, SHOP, World


async def test_a_lost_machine_goes_on_from_its_last_good_checkpoint(world: World) -> None:
    async with world.spawner():
        machine_id = await world.machine()
        await world.works(machine_id)
        good = uuid7()
        await world.taken(good, machine_id=machine_id, epoch=1, parent_id=GENESIS, snapshot="1" * 64)
        world.host.die(machine_id, 1)
        await world.works(machine_id, 2)
        await world.finishes(machine_id, 2)
        world.host.die(machine_id, 2, 0)
        ended = await world.ended(machine_id)
    assert (ended.outcome, ended.epoch) == (Outcome.SUCCEEDED, 2)
    assert (world.host.specs[machine_id, 2].snapshot, world.host.specs[machine_id, 2].parent_checkpoint_id) == (
        "1" * 64,
        good,
    )
    assert world.host.most_at_once[machine_id] == 1
    used = [event for event in await world.story(machine_id) if isinstance(event, m.UsageRecorded)]
    assert len({(event.epoch, event.resource_type) for event in used}) == len(used), "nothing is counted twice"
    assert {event.epoch for event in used} == {1, 2}
    assert world.issuer.good == set()


async def test_files_of_the_request_are_put_in_again_when_nothing_was_captured_after_them(world: World) -> None:
    files = (m.InjectedFile(path="a.txt", text="hello"),)
    async with world.spawner():
        machine_id = await world.machine(files=files)
        await world.works(machine_id)
        world.host.die(machine_id, 1)
        await world.works(machine_id, 2)
        assert world.host.specs[machine_id, 2].files == files
        good = uuid7()
        await world.taken(good, machine_id=machine_id, epoch=2, parent_id=GENESIS, snapshot="1" * 64)
        world.host.die(machine_id, 2)
        await world.until(machine_id, m.MachineBooted, 3)
    assert world.host.specs[machine_id, 3].files == ()


async def test_a_machine_that_is_lost_again_and_again_ends_as_lost(world: World) -> None:
    async with world.spawner():
        machine_id = await world.machine()
        for epoch in range(1, 5):
            await world.works(machine_id, epoch)
            world.host.die(machine_id, epoch)
        ended = await world.ended(machine_id)
    assert ended.outcome is Outcome.LOST
    assert world.host.vms == {}
    attempts = [event.attempt for event in await world.story(machine_id) if isinstance(event, m.MachineRecoveryStarted)]
    assert attempts == [1, 2, 3]


async def test_a_corrupted_checkpoint_is_not_recovered_from(world: World) -> None:
    async with world.spawner():
        machine_id = await world.machine()
        await world.works(machine_id)
        good, bad = uuid7(), uuid7()
        await world.taken(good, machine_id=machine_id, epoch=1, parent_id=GENESIS, snapshot="1" * 64)
        await world.taken(bad, machine_id=machine_id, epoch=1, parent_id=good, snapshot="2" * 64)
        await world.happen(at.checkpoint(SHOP, bad), CheckpointCorrupted(reason="a bit flipped"))
        world.host.die(machine_id, 1)
        started = await world.until(machine_id, m.MachineProvisioningStarted, 2)
    assert isinstance(started, m.MachineProvisioningStarted)
    assert started.from_checkpoint_id == good


async def test_after_the_hub_and_all_agents_were_killed_their_machines_go_on_by_one_attempt(world: World) -> None:
    machines: list[UUID] = []
    async with world.spawner():
        for _ in range(5):
            machine_id = await world.machine()
            await world.works(machine_id)
            machines.append(machine_id)
    world.host.vanish()
    async with world.spawner():
        for machine_id in machines:
            await world.works(machine_id, 2)
            await world.finishes(machine_id, 2)
            world.host.die(machine_id, 2, 0)
            assert (await world.ended(machine_id)).outcome is Outcome.SUCCEEDED
            story = await world.story(machine_id)
            assert [event.attempt for event in story if isinstance(event, m.MachineRecoveryStarted)] == [1]


async def test_an_agent_that_goes_on_while_the_spawner_is_away_is_not_lost(world: World) -> None:
    async with world.spawner():
        machine_id = await world.machine()
        await world.works(machine_id)
    await world.finishes(machine_id)
    world.host.die(machine_id, 1, 0, silently=True)
    async with world.spawner():
        ended = await world.ended(machine_id)
    assert (ended.outcome, ended.epoch) == (Outcome.SUCCEEDED, 1)


async def test_silence_means_contact_lost_and_a_beat_means_contact(world: World) -> None:
    world.settings = world.settings.model_copy(update={"beat_missed_s": 0.3})
    async with world.spawner():
        machine_id = await world.machine()
        await world.works(machine_id)
        await world.until(machine_id, m.MachineContactLost)
        await world.bus.nc.publish(f"beat.{SHOP}.{machine_id}.1", b"")

        async def works_again() -> bool:
            story = await world.story(machine_id)
            lost = next(i for i, event in enumerate(story) if isinstance(event, m.MachineContactLost))
            return any(isinstance(event, m.MachineWorkStarted) for event in story[lost:])

        await eventually(works_again)


async def test_a_beat_of_another_epoch_is_no_sign_of_life(world: World) -> None:
    world.settings = world.settings.model_copy(update={"beat_missed_s": 0.3})
    async with world.spawner():
        machine_id = await world.machine()
        await world.works(machine_id)
        for odd in (f"beat.{SHOP}.{machine_id}.2", f"beat.{SHOP}.{machine_id}.x", f"beat.other.{machine_id}.1"):
            await world.bus.nc.publish(odd, b"")
        await world.until(machine_id, m.MachineContactLost)


async def test_what_is_on_the_host_without_the_log_wanting_it_is_destroyed_after_its_grace(world: World) -> None:
    orphan = uuid7()
    async with world.spawner():
        machine_id = await world.machine()
        await world.works(machine_id)
        spec = world.host.specs[machine_id, 1]
        await world.host.create(spec.model_copy(update={"machine_id": orphan}))
        await world.host.create(spec.model_copy(update={"project": "other", "machine_id": uuid7()}))
        await eventually(lambda: list(world.host.vms) == [(machine_id, 1)])


async def test_the_fuse_keeps_a_wrong_log_from_emptying_the_host(world: World) -> None:
    world.settings = world.settings.model_copy(update={"orphans_always": 1, "orphan_grace_s": 0.0})
    async with world.spawner() as spawner:
        machine_id = await world.machine()
        await world.works(machine_id)
        spec = world.host.specs[machine_id, 1]
        for _ in range(5):
            await world.host.create(spec.model_copy(update={"machine_id": uuid7()}))

        async def blown() -> bool:
            return any(part.name == "orphans" and not part.ok for part in (await spawner.health()).parts)

        await eventually(blown)
    assert len(world.host.vms) == 6


async def test_a_machine_whose_id_another_project_uses_is_refused(world: World) -> None:
    await world.project("other")
    async with world.spawner():
        machine_id = await world.machine()
        await world.works(machine_id)
        await world.machine(machine_id, slug="other")

        async def refused() -> bool:
            return any(isinstance(event, m.MachineEnded) for event in await world.story(machine_id, "other"))

        await eventually(refused)
        assert world.host.vms[machine_id, 1].project == SHOP
        await world.finishes(machine_id)
        world.host.die(machine_id, 1, 0)
        assert (await world.ended(machine_id)).outcome is Outcome.SUCCEEDED


async def test_reports_of_a_fenced_epoch_change_nothing(world: World) -> None:
    async with world.spawner():
        machine_id = await world.machine()
        await world.works(machine_id)
        world.host.die(machine_id, 1)
        await world.until(machine_id, m.MachineBooted, 2)
        await world.finishes(machine_id, 1)
        await world.works(machine_id, 2)
        assert not [event for event in await world.story(machine_id) if isinstance(event, m.MachineSealingStarted)]


async def test_reports_delivered_many_times_end_a_machine_once(world: World) -> None:
    async with world.spawner():
        machine_id = await world.machine()
        await world.works(machine_id)
        for _ in range(5):
            await world.works(machine_id)
            await world.finishes(machine_id)
        world.host.die(machine_id, 1, 0)
        await world.ended(machine_id)
    kinds = [type(event) for event in await world.story(machine_id)]
    assert kinds.count(m.MachineSealingStarted) == 1
    assert kinds.count(m.MachineBecameReady) == 1


async def test_a_restore_takes_a_safety_checkpoint_and_goes_on_from_the_other(world: World) -> None:
    target = uuid7()
    async with world.spawner():
        machine_id = await world.machine()
        await world.works(machine_id)
        await world.taken(target, machine_id=machine_id, epoch=1, parent_id=GENESIS, snapshot="1" * 64)
        await world.ask(machine_id, m.MachineRestoreRequested(checkpoint_id=target))
        started = await world.until(machine_id, m.MachineCheckpointingStarted)
        assert isinstance(started, m.MachineCheckpointingStarted)
        await world.taken(started.checkpoint_id, machine_id=machine_id, epoch=1, parent_id=target, snapshot="2" * 64)
        await world.works(machine_id, 2)
    assert world.host.specs[machine_id, 2].snapshot == "1" * 64
    assert list(world.host.vms) == [(machine_id, 2)]
    assert world.host.most_at_once[machine_id] == 1


async def test_nothing_is_made_on_a_host_that_failed_its_self_test(world: World) -> None:
    world.host.tested = SelfTest(ok=False, node="here", enforcement="", problems=("no user namespaces",))
    async with world.spawner() as spawner:
        machine_id = await world.machine()
        health = await spawner.health()
        assert "no user namespaces" in str(health.json())
        assert not health.ok
    assert world.host.boots == {}
    assert [type(event) for event in await world.story(machine_id)][-1] is m.MachineAdmitted


async def test_two_machines_from_the_trunk_do_not_overwrite_each_other(world: World) -> None:
    async with world.spawner():
        first, second = await world.machine(), await world.machine()
        finals = {first: uuid7(), second: uuid7()}
        for machine_id, final in finals.items():
            await world.works(machine_id)
            await world.taken(final, machine_id=machine_id, epoch=1, parent_id=GENESIS)
        await world.finishes(first, checkpoint_id=finals[first])
        await world.ended(first)
        await world.finishes(second, checkpoint_id=finals[second])
        assert (await world.ended(second)).checkpoint_id == finals[second]
    assert await world.trunk() == finals[first]


async def test_a_host_that_becomes_fit_later_makes_what_has_waited_for_it(world: World) -> None:
    fit = world.host.tested
    world.host.tested = SelfTest(ok=False, node="here", enforcement="", problems=("busy",))
    async with world.spawner():
        machine_id = await world.machine()
        world.host.tested = fit
        await world.until(machine_id, m.MachineBooted)


async def test_a_checkpoint_that_cannot_be_restored_is_gone_back_from_and_does_not_end_the_machine(
    world: World,
) -> None:
    """It may be corrupt and nobody have found out yet: verification comes later than a crash."""
    async with world.spawner():
        machine_id = await world.machine()
        await world.works(machine_id)
        good, bad = uuid7(), uuid7()
        await world.taken(good, machine_id=machine_id, epoch=1, parent_id=GENESIS, snapshot="1" * 64)
        await world.taken(bad, machine_id=machine_id, epoch=1, parent_id=good, snapshot="2" * 64)
        world.host.die(machine_id, 1)
        await world.until(machine_id, m.MachineBooted, 2)
        assert world.host.specs[machine_id, 2].parent_checkpoint_id == bad
        unmade = AgentFinished(outcome="failed", reason="the workspace could not be made: chunk 22 is damaged")
        await world.report(machine_id, 2, AgentRegistered(agent_version="1"), unmade)
        world.host.die(machine_id, 2, 0)
        await world.works(machine_id, 3)
        assert world.host.specs[machine_id, 3].parent_checkpoint_id == good
        await world.finishes(machine_id, 3)
        world.host.die(machine_id, 3, 0)
        ended = await world.ended(machine_id)
    assert ended.outcome is Outcome.SUCCEEDED
    reasons = [event.reason for event in await world.story(machine_id) if isinstance(event, m.MachineRecoveryStarted)]
    assert "chunk 22 is damaged" in reasons[1]


async def test_a_base_that_cannot_be_restored_ends_the_machine_as_failed(world: World) -> None:
    async with world.spawner():
        machine_id = await world.machine()
        await world.until(machine_id, m.MachineBooted, 1)
        unmade = AgentFinished(outcome="failed", reason="the workspace could not be made: chunk 22 is damaged")
        await world.report(machine_id, 1, AgentRegistered(agent_version="1"), unmade)
        world.host.die(machine_id, 1, 0)
        ended = await world.ended(machine_id)
    assert (ended.outcome, ended.epoch) == (Outcome.FAILED, 1)
    assert "chunk 22 is damaged" in ended.reason


async def test_a_driver_that_breaks_over_one_orphan_does_not_end_the_spawner(world: World) -> None:
    async with world.spawner() as spawner:
        machine_id = await world.machine()
        await world.works(machine_id)
        world.host.destroy_trouble.before = [OSError(28, "No space left on device")]
        orphan = uuid7()
        world.host.vms[orphan, 1] = replace(world.host.vms[machine_id, 1], machine_id=orphan, running=False)
        await eventually(lambda: (orphan, 1) not in world.host.vms)
        world.host.list_trouble.before = [OSError(24, "Too many open files")]
        await eventually(lambda: not world.host.list_trouble.before)
        assert (await spawner.health()).ok
        await world.finishes(machine_id)
        world.host.die(machine_id, 1, 0)
        await world.ended(machine_id)
