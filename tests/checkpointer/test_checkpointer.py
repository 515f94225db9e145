"""What becomes a checkpoint and what does not, on a real log and a real store."""

import asyncio
from datetime import timedelta
from decimal import Decimal
from pathlib import Path
from uuid import UUID

from nats.aio.msg import Msg

from domain.retention import Keep
from events import address as at
from events import checkpoint as e
from events import machine as m
from events.budget import BudgetAllocated
from events.fresh import now, uuid7
from events.words import BudgetPeriod, CheckpointType, Resource, Unit
from services.checkpointer.app import Checkpointer
from services.checkpointer.chunks import Chunks, Verdict
from services.checkpointer.desk import Desk
from services.checkpointer.verifier import Verifier
from snapshots.errors import StoreFull
from tests.checkpointer.world import GENESIS, SHOP, World, captured, failed
from tests.harness import eventually


async def test_a_project_begins_empty_on_its_genesis(world: World) -> None:
    async with world.checkpointer():
        await world.project()
        taken = await world.until(GENESIS, e.CheckpointTaken)
    assert isinstance(taken, e.CheckpointTaken)
    assert (taken.checkpoint_type, taken.machine_id, taken.file_count) == (CheckpointType.GENESIS, None, 0)
    assert await world.trunk() == [GENESIS]


async def test_a_project_begins_with_what_was_uploaded_for_it(world: World) -> None:
    snapshot = world.snapshot(a="1", b="22")
    await world.project(genesis=snapshot.digest)
    async with world.checkpointer():
        taken = await world.until(GENESIS, e.CheckpointTaken)
    assert isinstance(taken, e.CheckpointTaken)
    assert (taken.snapshot, taken.file_count, taken.size_bytes) == (snapshot.digest, 2, 3)


async def test_a_genesis_that_nobody_uploaded_fails_and_leaves_the_trunk_nowhere(world: World) -> None:
    async with world.checkpointer():
        await world.project(genesis="a" * 64)
        missing = await world.until(GENESIS, e.CheckpointFailed)
    assert isinstance(missing, e.CheckpointFailed)
    assert "does not hold" in missing.reason
    assert await world.trunk() == []


async def test_what_an_agent_captured_becomes_a_checkpoint_once_however_often_it_is_reported(world: World) -> None:
    await world.project()
    machine_id = await world.working()
    report = captured(world.snapshot(a="1"))
    async with world.checkpointer():
        await world.until(GENESIS, e.CheckpointTaken)
        for _ in range(3):
            await world.report(machine_id, 1, report)
        await world.until(report.checkpoint_id, e.CheckpointVerified)
        await eventually(lambda: nothing_waits(world))
    taken, verified = await world.story(report.checkpoint_id)
    assert isinstance(taken, e.CheckpointTaken)
    assert isinstance(verified, e.CheckpointVerified)
    assert (taken.machine_id, taken.epoch, taken.parent_id, taken.snapshot) == (machine_id, 1, GENESIS, report.snapshot)
    assert taken.log_seq == (await world.bus.log.load(at.machine(SHOP, machine_id))).seq
    assert verified.file_count == 1


async def nothing_waits(world: World) -> bool:
    info = await world.bus.js.consumer_info("IN", "checkpointer-reports")
    return not info.num_pending and not info.num_ack_pending


async def test_what_the_store_does_not_hold_was_not_taken(world: World) -> None:
    await world.project()
    machine_id = await world.working()
    report = captured(world.snapshot(a="1")).model_copy(update={"snapshot": "b" * 64})
    async with world.checkpointer():
        await world.report(machine_id, 1, report)
        missing = await world.until(report.checkpoint_id, e.CheckpointFailed)
    assert isinstance(missing, e.CheckpointFailed)
    assert "b" * 64 in missing.reason


async def test_the_counts_of_a_checkpoint_are_the_stores_not_the_reports(world: World) -> None:
    await world.project()
    machine_id = await world.working()
    report = captured(world.snapshot(a="1")).model_copy(update={"file_count": 99, "size_bytes": 99})
    async with world.checkpointer():
        await world.report(machine_id, 1, report)
        taken = await world.until(report.checkpoint_id, e.CheckpointTaken)
    assert isinstance(taken, e.CheckpointTaken)
    assert (taken.file_count, taken.size_bytes) == (1, 1)


async def test_a_capture_that_failed_is_recorded_and_nothing_else_happens(world: World) -> None:
    await world.project()
    machine_id = await world.working()
    checkpoint_id = uuid7()
    async with world.checkpointer():
        await world.report(machine_id, 1, failed(checkpoint_id))
        missing = await world.until(checkpoint_id, e.CheckpointFailed)
    assert missing == e.CheckpointFailed(machine_id=machine_id, reason="disk full")


async def test_what_a_fenced_epoch_reports_is_refused_and_never_a_fact(world: World) -> None:
    await world.project()
    machine_id = await world.working()
    await world.happen(at.machine(SHOP, machine_id), m.MachineRecoveryStarted(epoch=1, attempt=1, reason="gone"))
    report = captured(world.snapshot(a="1"))
    async with world.checkpointer():
        await world.report(machine_id, 1, report)
        [said] = await eventually(world.refusals)
    assert "epoch 1 is over" in said
    assert await world.story(report.checkpoint_id) == []


async def test_a_machine_of_another_project_cannot_put_a_checkpoint_into_this_one(world: World) -> None:
    await world.project()
    await world.project("other")
    stranger = await world.working("other")
    report = captured(world.snapshot(a="1"))
    async with world.checkpointer():
        await world.report(stranger, 1, report, slug=SHOP)
        [said] = await eventually(world.refusals)
    assert "none of project webshop" in said
    assert await world.story(report.checkpoint_id) == []


async def test_what_comes_after_the_machines_end_is_no_checkpoint(world: World) -> None:
    await world.project()
    machine_id = await world.working()
    await world.ended(machine_id)
    report = captured(world.snapshot(a="1"))
    async with world.checkpointer():
        await world.report(machine_id, 1, report)
        await eventually(world.refusals)
    assert await world.story(report.checkpoint_id) == []


async def test_a_parent_that_failed_is_replaced_by_what_the_machine_last_took(world: World) -> None:
    await world.project()
    machine_id = await world.working()
    first, second, third = uuid7(), uuid7(), uuid7()
    async with world.checkpointer():
        await world.report(machine_id, 1, captured(world.snapshot(a="1"), checkpoint_id=first))
        await world.report(machine_id, 1, failed(second))
        await world.report(machine_id, 1, captured(world.snapshot(a="3"), checkpoint_id=third, parent_id=second))
        taken = await world.until(third, e.CheckpointTaken)
    assert isinstance(taken, e.CheckpointTaken)
    assert taken.parent_id == first


async def test_a_checkpoint_says_what_the_budget_stood_at(world: World) -> None:
    await world.project()
    allocated = BudgetAllocated(
        resource=Resource.MONEY, amount=Decimal(5), unit=Unit.CAD, period=BudgetPeriod.TOTAL, period_start=now()
    )
    await world.happen(at.budget(SHOP, SHOP), allocated)
    machine_id = await world.working()
    report = captured(world.snapshot(a="1"))
    async with world.checkpointer():
        await world.report(machine_id, 1, report)
        taken = await world.until(report.checkpoint_id, e.CheckpointTaken)
    assert isinstance(taken, e.CheckpointTaken)
    assert taken.balance[Resource.MONEY].allocated == 5


async def test_a_capture_on_request_is_told_to_the_agent_and_becomes_what_it_reports(world: World) -> None:
    await world.project()
    machine_id = await world.working()
    checkpoint_id = uuid7()
    snapshot = world.snapshot(a="1")
    told: list[bytes] = []

    async def agent(message: Msg) -> None:
        told.append(message.data)
        report = captured(snapshot, checkpoint_id=checkpoint_id, kind=CheckpointType.MANUAL)
        await world.report(machine_id, 1, report)
        await message.respond(b'{"report": "WorkspaceCaptured"}')

    await world.bus.nc.subscribe(at.command(SHOP, machine_id, 1, "Capture"), cb=agent)
    async with world.checkpointer():
        asked = e.CheckpointRequested(machine_id=machine_id, description="before lunch")
        await world.happen(at.checkpoint(SHOP, checkpoint_id), asked)
        taken = await world.until(checkpoint_id, e.CheckpointTaken)
    assert isinstance(taken, e.CheckpointTaken)
    assert (taken.description, taken.checkpoint_type) == ("before lunch", CheckpointType.MANUAL)
    assert len(told) == 1


async def test_a_capture_of_a_machine_that_does_not_run_fails_and_says_why(world: World) -> None:
    await world.project()
    machine_id = await world.working()
    await world.ended(machine_id)
    checkpoint_id = uuid7()
    await world.happen(at.checkpoint(SHOP, checkpoint_id), e.CheckpointRequested(machine_id=machine_id))
    async with world.checkpointer():
        missing = await world.until(checkpoint_id, e.CheckpointFailed)
    assert isinstance(missing, e.CheckpointFailed)
    assert "has ended" in missing.reason


async def test_a_capture_that_no_agent_answers_fails_when_its_time_is_up(world: World) -> None:
    world.settings = world.settings.model_copy(update={"capture_deadline_s": 0.2})
    await world.project()
    machine_id = await world.working()
    checkpoint_id = uuid7()
    await world.happen(at.checkpoint(SHOP, checkpoint_id), e.CheckpointRequested(machine_id=machine_id))
    async with world.checkpointer():
        missing = await world.until(checkpoint_id, e.CheckpointFailed)
    assert isinstance(missing, e.CheckpointFailed)
    assert "not captured within" in missing.reason


async def test_what_was_not_verified_before_a_restart_is_verified_after_it(world: World) -> None:
    await world.project()
    machine_id = await world.working()
    report = captured(world.snapshot(a="1"))
    unverifying = world.settings.model_copy(update={"verify": False})
    verifying, world.settings = world.settings, unverifying
    async with world.checkpointer():
        await world.report(machine_id, 1, report)
        await world.until(report.checkpoint_id, e.CheckpointTaken)
    world.settings = verifying
    async with world.checkpointer():
        await world.until(report.checkpoint_id, e.CheckpointVerified)


async def test_a_snapshot_that_was_damaged_after_it_was_taken_is_found_corrupt(world: World) -> None:
    await world.project()
    machine_id = await world.working()
    report = captured(world.snapshot(a="what will be lost" * 100))
    verifying, world.settings = world.settings, world.settings.model_copy(update={"verify": False})
    async with world.checkpointer():
        await world.report(machine_id, 1, report)
        await world.until(report.checkpoint_id, e.CheckpointTaken)
    damage(world.directory / "store" / "packs")
    world.settings = verifying
    async with world.checkpointer():
        await world.until(report.checkpoint_id, e.CheckpointCorrupted)


def damage(packs: Path) -> None:
    """Turn over all bytes in the middle of every pack."""
    for pack in packs.iterdir():
        raw = bytearray(pack.read_bytes())
        for place in range(len(raw) // 4, len(raw) * 3 // 4):
            raw[place] ^= 0xFF
        pack.chmod(0o600)
        pack.write_bytes(raw)


async def test_nothing_is_ever_dropped_without_a_keep_rule(world: World) -> None:
    await world.project()
    async with world.checkpointer() as checkpointer:
        await world.until(GENESIS, e.CheckpointTaken)
        assert await checkpointer.retention.once() == 0


async def test_retention_drops_what_no_rule_keeps_and_the_store_with_it(world: World) -> None:
    await world.project()
    machine_id = await world.working()
    reports = [captured(world.snapshot(a=str(uuid7()) * 1_000)) for _ in range(4)]
    async with world.checkpointer() as checkpointer:
        for report in reports:
            await world.report(machine_id, 1, report)
            await world.until(report.checkpoint_id, e.CheckpointVerified)
        checkpointer.retention.keep = Keep(last=2, younger_than=timedelta(0))
        await eventually(lambda: purged(world, checkpointer, reports[0].checkpoint_id))
    dropped = [report for report in reports if e.CheckpointPurged in map(type, await world.story(report.checkpoint_id))]
    assert dropped == reports[:2]
    for report in reports:
        gone = bool(world.store.missing([bytes.fromhex(report.snapshot)]))
        assert gone == (report in dropped)


async def purged(world: World, checkpointer: Checkpointer, checkpoint_id: UUID) -> bool:
    await checkpointer.retention.once()
    return e.CheckpointPurged in map(type, await world.story(checkpoint_id))


async def test_a_sweep_that_a_crash_left_out_is_made_up_for(world: World) -> None:
    """The facts are said first: who ended between them and the sweep would leave the bytes there for ever."""
    await world.project()
    machine_id = await world.working()
    reports = [captured(world.snapshot(a=str(uuid7()) * 1_000)) for _ in range(2)]
    async with world.checkpointer():
        for report in reports:
            await world.report(machine_id, 1, report)
            await world.until(report.checkpoint_id, e.CheckpointVerified)
    await world.happen(at.checkpoint(SHOP, reports[0].checkpoint_id), e.CheckpointPurged(reason="retention"))
    async with world.checkpointer() as checkpointer:
        checkpointer.retention.keep = Keep(last=5, younger_than=timedelta(0))
        assert await checkpointer.retention.once() > 0
        assert await checkpointer.retention.once() == 0
    assert world.store.missing([bytes.fromhex(reports[0].snapshot)])
    assert not world.store.missing([bytes.fromhex(reports[1].snapshot)])


class NoRoom(Chunks):
    """Has no scratch for one snapshot."""

    too_large = ""

    async def verdict(self, snapshot: str) -> Verdict:
        if snapshot == self.too_large:
            raise StoreFull("no space left for it")
        return await super().verdict(snapshot)


async def test_a_checkpoint_that_cannot_be_verified_now_does_not_hold_up_the_others(world: World) -> None:
    await world.project()
    machine_id = await world.working()
    world.settings = world.settings.model_copy(update={"verify": False})
    reports = [captured(world.snapshot(a=str(uuid7()))) for _ in range(2)]
    async with world.checkpointer():
        for report in reports:
            await world.report(machine_id, 1, report)
            await world.until(report.checkpoint_id, e.CheckpointTaken)
    desk = Desk(world.bus.log)
    await desk.load()
    chunks = NoRoom(world.store, 1)
    chunks.too_large = reports[0].snapshot
    verifying = asyncio.create_task(Verifier(desk, chunks, world.settings).run())
    try:
        await world.until(reports[1].checkpoint_id, e.CheckpointVerified)
        chunks.too_large = ""
        await world.until(reports[0].checkpoint_id, e.CheckpointVerified)
    finally:
        verifying.cancel()
        await asyncio.gather(verifying, return_exceptions=True)
        chunks.close()


async def test_nothing_is_remembered_of_a_capture_that_is_settled(world: World) -> None:
    await world.project()
    machine_id = await world.working()
    checkpoint_id = uuid7()
    async with world.checkpointer() as checkpointer:
        await world.until(GENESIS, e.CheckpointTaken)
        await world.happen(at.checkpoint(SHOP, checkpoint_id), e.CheckpointRequested(machine_id=machine_id))
        asked = checkpointer._requests._asked  # pyright: ignore[reportPrivateUsage] (memory has no public face)
        await eventually(lambda: checkpoint_id in asked)
        await world.report(machine_id, 1, captured(world.snapshot(a="x"), checkpoint_id=checkpoint_id))
        await world.until(checkpoint_id, e.CheckpointTaken)
        await eventually(lambda: not asked)
