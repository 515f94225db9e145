"""Exactly so many, whatever is delivered twice, whoever decides at once and whoever is killed."""

import asyncio
import os
import signal
import sys
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from decimal import Decimal
from functools import partial
from pathlib import Path
from uuid import UUID

import pytest

from cli.stack.nats import EmbeddedNats
from domain.budget import Account
from events import address
from events.base import Event
from events.budget import BudgetReleased, BudgetReserved, BudgetSettled
from events.envelope import Recorded
from events.ids import HUB
from events.machine import MachineAdmitted, MachineDenied, MachineQueued
from events.project import ProjectCreated
from events.words import BudgetPeriod, Resource
from schema.streams import BUDGET
from services.budget.desk import Desk
from services.kit.bus import BusSettings
from services.kit.delivery import Later
from tests.budget.conftest import Client, Instances
from tests.budget.world import SHOP, request, wanted
from tests.harness import eventually

ROOT = Path(__file__).resolve().parents[2]
PROCESS_S = 60.0
"""For a process to start, or to work, on a machine that is busy with other tests."""


GREEDINESS = {"bakery": "1", "florist": "0.50", "garage": "0.25", "webshop": "0.30", "zoo": "0"}


async def test_50_requests_of_5_projects_on_a_budget_for_20_are_shared_by_greediness_by_two_instances(
    client: Client, instances: Instances
) -> None:
    await instances.start()
    await instances.start()
    for slug, greediness in GREEDINESS.items():
        await client.say(address.project(slug), ProjectCreated(greediness=Decimal(greediness)))
    await client.set_budget(HUB, wanted("20"))
    holder = await client.ask(request("20"), "holder")
    await client.hears(MachineAdmitted, holder, "holder")
    for number in range(50):
        await client.ask(request("1"), tuple(GREEDINESS)[number % 5])
    await eventually(lambda: said_of(client, MachineQueued, 50))
    await client.end(holder, slug="holder")
    await eventually(lambda: said_of(client, MachineAdmitted, 21))
    went = Counter(each.envelope.address.project for each in await client.all("av.*.machine.*.MachineAdmitted"))
    assert went == {"holder": 1, "bakery": 10, "florist": 5, "garage": 2, "webshop": 3}
    assert money(await client.account(HUB)) == (0, 20)


async def said_of(client: Client, kind: type[Event], many: int) -> bool:
    """Whether this has been said of so many machines."""
    said = await client.all(f"av.*.machine.*.{kind.type()}")
    return len({recorded.envelope.address.id for recorded in said}) == many


async def redeliver_soon(client: Client) -> None:
    """Have what was not acknowledged come again after a second instead of thirty."""
    config = replace(BUDGET, ack_wait_s=1).config()
    body = {"stream_name": "LOG", "config": config, "action": "update"}
    await client.bus.wire.api("CONSUMER.CREATE.LOG.budget", body)


async def count(client: Client) -> Mapping[str, int]:
    """Return how many machines were said to be admitted and so on; saying it twice of one is a failure."""
    kinds = (MachineAdmitted, MachineQueued, MachineDenied)
    said = {kind.type(): [recorded.envelope.address.id for recorded in await client.said(kind)] for kind in kinds}
    assert all(times == 1 for kind in ("MachineAdmitted", "MachineDenied") for times in Counter(said[kind]).values())
    return {kind: len(set(ids)) for kind, ids in said.items()}


async def admitted(client: Client) -> list[Recorded]:
    return await client.said(MachineAdmitted)


def money(account: Account) -> tuple[Decimal, Decimal]:
    book = account.books[Resource.MONEY, BudgetPeriod.TOTAL]
    return book.used, book.reserved


async def each_resolved_once(client: Client) -> None:
    resolved = await client.all("av.*.budget.*.BudgetSettled", "av.*.budget.*.BudgetReleased")
    times = Counter(
        (str(recorded.envelope.address), recorded.event.reservation_id)
        for recorded in resolved
        if isinstance(recorded.event, BudgetSettled | BudgetReleased)
    )
    reserved = await client.all("av.*.budget.*.BudgetReserved")
    held = Counter(
        (str(recorded.envelope.address), recorded.event.reservation_id)
        for recorded in reserved
        if isinstance(recorded.event, BudgetReserved)
    )
    assert set(times.values()) <= {1}
    assert set(held.values()) <= {1}
    assert set(times) <= set(held)


async def test_fifty_requests_against_a_budget_for_twenty_admit_exactly_twenty(
    client: Client, instances: Instances, monkeypatch: pytest.MonkeyPatch
) -> None:
    heard: set[int] = set()
    hear = Desk.hear

    async def hear_and_lose_the_acknowledgement(desk: Desk, recorded: Recorded) -> None:
        await hear(desk, recorded)
        if recorded.seq not in heard:
            heard.add(recorded.seq)
            raise Later(0.01, "delivered twice")

    monkeypatch.setattr(Desk, "hear", hear_and_lose_the_acknowledgement)
    await client.set_budget(SHOP, wanted("20"))
    await asyncio.gather(instances.start(), instances.start())
    await asyncio.gather(*(client.ask(request("1")) for _ in range(50)))
    await eventually(client.idle)
    assert await count(client) == {"MachineAdmitted": 20, "MachineQueued": 30, "MachineDenied": 0}
    assert money(await client.account(SHOP)) == money(await client.account(HUB)) == (0, 20)

    first = await admitted(client)
    await asyncio.gather(*(client.end(_machine(recorded), cost="0.5") for recorded in first))
    await eventually(lambda: _reaches(client, 30))
    second = [recorded for recorded in await admitted(client) if recorded.seq > first[-1].seq]
    await asyncio.gather(*(client.end(_machine(recorded), cost="1") for recorded in second))
    await eventually(lambda: _all_answered(client, 50))
    assert (await count(client))["MachineDenied"] == 20
    assert money(await client.account(SHOP)) == money(await client.account(HUB)) == (20, 0)
    await each_resolved_once(client)


@pytest.mark.timeout(240)
async def test_killed_between_effect_and_acknowledgement_it_does_nothing_twice(
    client: Client, instances: Instances, bus_settings: BusSettings
) -> None:
    await redeliver_soon(client)
    await client.set_budget(SHOP, wanted("5"))
    await asyncio.gather(*(client.ask(request("1")) for _ in range(10)))
    for answers in (1, 4):
        process = await _process(bus_settings, "tests.budget.dying", str(answers))
        assert await asyncio.wait_for(process.wait(), PROCESS_S) == -signal.SIGKILL
    await instances.start()
    await eventually(client.idle, timeout_s=PROCESS_S)
    assert await count(client) == {"MachineAdmitted": 5, "MachineQueued": 5, "MachineDenied": 0}
    for recorded in await admitted(client):
        await client.end(_machine(recorded), cost="1")
    await eventually(lambda: _all_answered(client, 10))
    assert money(await client.account(SHOP)) == (5, 0)
    await each_resolved_once(client)


@pytest.mark.timeout(240)
async def test_two_processes_killed_under_load_and_started_again_lose_nothing(
    client: Client, bus_settings: BusSettings
) -> None:
    await redeliver_soon(client)
    await client.set_budget(SHOP, wanted("20"))
    processes = [await _process(bus_settings, "services.budget") for _ in range(2)]
    try:
        for killed, enough in ((processes[0], 5), (processes[1], 15)):
            await asyncio.gather(*(client.ask(request("1")) for _ in range(25)))
            await eventually(partial(_some_admitted, client, enough), timeout_s=PROCESS_S)
            killed.kill()
            await killed.wait()
            processes.append(await _process(bus_settings, "services.budget"))
        await eventually(client.idle, timeout_s=PROCESS_S)
        assert await count(client) == {"MachineAdmitted": 20, "MachineQueued": 30, "MachineDenied": 0}
        await asyncio.gather(*(client.end(_machine(r), cost="1") for r in await admitted(client)))
        await eventually(lambda: _all_answered(client, 50), timeout_s=PROCESS_S)
        assert money(await client.account(SHOP)) == money(await client.account(HUB)) == (20, 0)
        await each_resolved_once(client)
        assert await _ended(processes[-1]) == 0
    finally:
        for process in processes:
            if process.returncode is None:
                process.kill()
                await process.wait()


@pytest.mark.timeout(240)
async def test_a_server_killed_under_load_and_started_again_changes_nothing(
    client: Client, instances: Instances, nats_server: EmbeddedNats
) -> None:
    await redeliver_soon(client)
    await client.set_budget(SHOP, wanted("20"))
    await asyncio.gather(instances.start(), instances.start())
    await asyncio.gather(*(client.ask(request("1")) for _ in range(50)))
    await eventually(partial(_some_admitted, client, 5))
    nats_server.kill()
    await nats_server.ended()
    await nats_server.start()
    await eventually(client.idle, timeout_s=PROCESS_S)
    assert await count(client) == {"MachineAdmitted": 20, "MachineQueued": 30, "MachineDenied": 0}
    await asyncio.gather(*(client.end(_machine(recorded), cost="1") for recorded in await admitted(client)))
    await eventually(lambda: _all_answered(client, 50), timeout_s=PROCESS_S)
    assert money(await client.account(SHOP)) == money(await client.account(HUB)) == (20, 0)
    await each_resolved_once(client)


async def _process(settings: BusSettings, module: str, *arguments: str) -> asyncio.subprocess.Process:
    environment = {
        **os.environ,
        "AUTOVIBE_NATS_URL": settings.nats_url,
        "AUTOVIBE_HEALTH_PORT": "0",
        "AUTOVIBE_LOG_LEVEL": "warning",
        "AUTOVIBE_VCPU_HOUR_CAD": "0",
        "AUTOVIBE_GIB_HOUR_CAD": "0",
    }
    return await asyncio.create_subprocess_exec(
        sys.executable, "-m", module, *arguments, cwd=ROOT, env=environment, stdout=asyncio.subprocess.DEVNULL
    )


async def _ended(process: asyncio.subprocess.Process) -> int:
    process.terminate()
    return await asyncio.wait_for(process.wait(), PROCESS_S)


def _machine(recorded: Recorded) -> UUID:
    return UUID(recorded.envelope.address.id)


async def _reaches(client: Client, number: int) -> bool:
    return (await count(client))["MachineAdmitted"] == number


async def _some_admitted(client: Client, number: int) -> bool:
    return (await count(client))["MachineAdmitted"] >= number


async def _all_answered(client: Client, number: int) -> bool:
    """Say whether every machine is over: admitted and settled, or denied."""
    counted = await count(client)
    account = await client.account(SHOP)
    return counted["MachineAdmitted"] + counted["MachineDenied"] == number and not account.holds
