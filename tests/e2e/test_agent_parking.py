"""An agent whose budget is short, on a whole hub: it parks, says why, is topped up, goes on from the same call and finishes."""

import asyncio
import json
import re
from decimal import Decimal
from itertools import pairwise
from pathlib import Path
from typing import cast
from uuid import UUID

import psycopg
import pytest

from events.call import CallRefused, CallReserved, CallSettled
from events.checkpoint import CheckpointTaken
from events.machine import MachineParked
from events.words import Hold, Outcome, Resource
from tests.harness import eventually
from tests.harness.hub import ROOT, RunningHub
from tests.harness.invariants import Story, told
from tests.harness.rehearsed import NANO, Provider, rehearsed_hub

EXAMPLES = ROOT / "examples"
SCRIPT = EXAMPLES / "rehearsal" / "receipt.toml"
GOAL = (EXAMPLES / "goals" / "receipt.txt").read_text(encoding="utf-8")
RUN = ("--type", "claude_api", "--model", "rehearsal-sonnet")
RUN_S = 90.0
USAGE = """
    SELECT count(*), sum(cost), sum(cost_cad)
      FROM resource_usage
     WHERE resource_type = 'api_calls'
       AND currency = 'USD'
"""
LEFT = """
    SELECT sum(reserved_amount), sum(used_amount)
      FROM resource_budgets
     WHERE resource_type = 'money'
       AND scope = 'project'
"""


@pytest.mark.timeout(240)
async def test_it_parks_and_after_a_top_up_goes_on_from_the_same_call_and_no_call_is_billed_twice(
    tmp_path: Path,
) -> None:
    async with rehearsed_hub(SCRIPT) as (hub, provider):
        await hub.ok("project", "create", "rich", "--from", str(EXAMPLES / "webshop"), "--budget", "50CAD")
        await hub.ok("project", "create", "shop", "--from", str(EXAMPLES / "webshop"), "--budget", "50CAD")
        await hub.ok("run", "rich", GOAL, *RUN, "--budget", "20CAD", timeout_s=RUN_S)
        whole = len(provider.heard)
        budget = enough_for(await told(hub), calls=2)
        running = asyncio.create_task(hub.ok("run", "shop", GOAL, *RUN, "--budget", f"{budget:f}CAD", timeout_s=RUN_S))
        found = await eventually(lambda: parking(hub), timeout_s=RUN_S)
        assert found is not None
        parked, machine = found
        assert len(provider.heard) == whole + 2, "the provider saw nothing of the refused call"
        story = await told(hub)
        assert sum(isinstance(event, CallRefused) for event in story.machine(machine)) == 1
        spent = sum((event.cost_cad for event in settled(story, machine)), Decimal(0))
        assert parked.hold is Hold.BUDGET
        assert f"cost {spent.normalize():f} CAD so far" in parked.reason
        assert checkpoints(story, machine)[-1] == "parking"
        command = re.search(r"autovibe (budget top-up .*)$", parked.reason)
        assert command is not None, parked.reason
        await hub.ok(*command[1].split())
        done = await running
        assert parked.reason in " ".join(done.out.split()), "whoever looks on is told the same"
        conversation = [messages(request) for request in provider.heard[whole:]]
        assert len(conversation) == whole, "no call was made twice"
        for before, after in pairwise(conversation):
            assert after[: len(before)] == before, "the conversation is the same"
            assert len(after) == len(before) + 2
        await finished(hub, machine)
        await three_ledgers_are_equal(hub, provider)
        assert (await hub.ok("verify", "--json", timeout_s=60)).only()["ok"]
        tests = (await hub.ok("run", "shop", "make test", timeout_s=RUN_S)).out
        assert "OK" in tests or "passed" in tests, tests


def enough_for(story: Story, *, calls: int) -> Decimal:
    """Return a budget, CAD, that so many calls like those on the log can be held in, and the next, which is larger, cannot."""
    of = {each.event.call_id: each.event for each in story.events if isinstance(each.event, CallSettled)}
    made = [each.event for each in story.events if isinstance(each.event, CallReserved)]
    *past, last = made[:calls]
    held = sum((of[call.call_id].cost_cad for call in past), last.held[Resource.MONEY])
    return (held + of[last.call_id].cost_cad / 2).quantize(Decimal("0.000001"))


async def parking(hub: RunningHub) -> tuple[MachineParked, str] | None:
    found = [each for each in (await told(hub)).events if isinstance(each.event, MachineParked)]
    return (cast("MachineParked", found[0].event), found[0].envelope.address.id) if found else None


def settled(story: Story, machine: str) -> list[CallSettled]:
    return [event for event in story.machine(machine) if isinstance(event, CallSettled)]


def checkpoints(story: Story, machine: str) -> list[str]:
    """Return the types of a machine's checkpoints, oldest first."""
    taken = [each.event for each in story.events if isinstance(each.event, CheckpointTaken)]
    return [str(event.checkpoint_type) for event in taken if event.machine_id == UUID(machine)]


def messages(request: str) -> list[object]:
    """Return the conversation that a request sends, without what only says how it is cached."""
    return json.loads(re.sub(r',\s*"cache_control":\s*\{[^}]*\}', "", request))["messages"]


async def finished(hub: RunningHub, machine: str) -> None:
    story = await told(hub)
    ended = story.ended(machine)
    assert ended is not None
    assert ended.outcome is Outcome.SUCCEEDED
    assert len(story.provisioned(machine)) == 2


async def three_ledgers_are_equal(hub: RunningHub, provider: Provider) -> None:
    """The provider's own bill, what was settled on the log, and the read model; and nothing is left reserved."""
    story = await told(hub)
    calls = [each.event for each in story.events if isinstance(each.event, CallSettled)]
    assert not [call for call in calls if call.estimated]
    assert len(calls) == len(provider.heard) == len(provider.model.bill.charges)
    for call in calls:
        assert call.cost == provider.model.bill.charges[call.request_id or ""].usage.nano_usd * NANO
    cost, cad = sum((call.cost for call in calls), Decimal(0)), sum((call.cost_cad for call in calls), Decimal(0))
    assert cost == provider.billed > 0

    def level() -> bool:
        with psycopg.connect(hub.context.database_url) as connection:
            assert connection.execute(USAGE).fetchone() == (len(calls), cost, cad)
            left = connection.execute(LEFT).fetchall()
        assert left == [(Decimal(0), cad)], "nothing is reserved, and all that was settled is drawn"
        return True

    await eventually(level, timeout_s=20)
