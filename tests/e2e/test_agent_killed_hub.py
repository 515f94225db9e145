"""`kill -9` of the whole hub while an agent's model call is open: the call is resolved, the agent goes on, nothing is lost."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from decimal import Decimal

import psycopg
import pytest

from events.call import CallReserved, CallSettled, CallVoided
from events.words import Outcome
from services.rehearsal.script import read
from tests.e2e.test_faults_killed_hub import GONE_S, killed
from tests.harness import eventually, processes
from tests.harness.hub import ROOT, RunningHub
from tests.harness.invariants import Story, nothing_left, proved, told
from tests.harness.knocking import Knocks, knocking
from tests.harness.rehearsed import Provider, rehearsed_hub

pytestmark = pytest.mark.timeout(300)
EXAMPLES = ROOT / "examples"
GOAL = (EXAMPLES / "goals" / "receipt.txt").read_text(encoding="utf-8")
SCRIPT = EXAMPLES / "rehearsal" / "receipt.toml"
TURNS = read([SCRIPT])[0].turns
LEASE_S = 4.0
RESOLVED_S = 60.0
"""Everything that was open is resolved so soon after the hub is there again; promised are 120 s."""
RESERVED = "SELECT COALESCE(sum(reserved_amount), 0) FROM resource_budgets WHERE resource_type = 'money'"


@dataclass(frozen=True, slots=True)
class Stage:
    """A hub with an agent at work, whose third call never gets an answer."""

    hub: RunningHub
    provider: Provider
    knocks: Knocks
    machine: str


@asynccontextmanager
async def an_agent_amid_a_call(*, begun: bool) -> AsyncGenerator[Stage]:
    """`begun`: the provider has begun its answer, and bills it."""
    settings = {"AUTOVIBE_CALL_LEASE_S": f"{LEASE_S:g}"}
    async with (
        rehearsed_hub(SCRIPT, settings) as (hub, provider),
        knocking(hub) as knocks,
    ):
        await hub.ok("project", "create", "shop", "--from", str(EXAMPLES / "webshop"), "--budget", "50CAD")
        if begun:
            provider.begins_at = 2
        else:
            provider.waits_at = 2
        machine = await knocks.machine("shop", GOAL, machine_type="claude_api", model="rehearsal-sonnet", budget="20")
        await eventually(provider.waiting.is_set, timeout_s=60)
        yield Stage(hub, provider, knocks, machine)


@pytest.mark.parametrize("begun", [False, True], ids=["before the first word", "amid the answer"])
async def test_a_hub_killed_amid_a_model_call_counts_no_less_than_the_bill_and_the_agent_finishes(
    *, begun: bool
) -> None:
    async with an_agent_amid_a_call(begun=begun) as stage:
        hub, provider, machine = stage.hub, stage.provider, stage.machine
        await eventually(lambda: _is_open(hub, machine), timeout_s=10)
        (lost,) = unresolved(await told(hub), machine)
        heard = len(provider.heard)
        await killed(hub)
        await hub.start()
        await eventually(lambda: _is_resolved(hub, machine, lost), timeout_s=RESOLVED_S, poll_s=0.3)
        story = await proved(hub, stage.knocks, [machine])
        ended = story.ended(machine)
        assert ended is not None
        assert ended.outcome is Outcome.SUCCEEDED, ended
        assert len(story.provisioned(machine)) == 2
        assert provider.heard[heard] == provider.heard[heard - 1], "it goes on with the call that was lost"
        assert len(provider.heard) == len(TURNS) + 1, "and makes every other call once"
        calls = [event for event in story.machine(machine) if isinstance(event, CallSettled)]
        assert [call.call_id for call in calls if call.estimated] == [lost.call_id]
        assert sum((call.cost for call in calls), Decimal(0)) >= provider.billed
        exact = [call for call in calls if not call.estimated]
        billed = {charge.request_id: charge for charge in provider.model.bill.charges.values()}
        assert {call.request_id for call in exact} == {name for name in billed if "begun" not in name}
        assert not unresolved(story, machine)
        await eventually(lambda: _nothing_reserved(hub), timeout_s=20)
        known = processes.tree(hub.process.pid)
        assert await hub.stop() == 0
        await nothing_left(hub, known, GONE_S)


def unresolved(story: Story, machine: str) -> list[CallReserved]:
    events = story.machine(machine)
    over = {event.call_id for event in events if isinstance(event, CallSettled | CallVoided)}
    return [event for event in events if isinstance(event, CallReserved) and event.call_id not in over]


async def _is_open(hub: RunningHub, machine: str) -> bool:
    return len(unresolved(await told(hub), machine)) == 1


async def _is_resolved(hub: RunningHub, machine: str, call: CallReserved) -> bool:
    return call.call_id not in {each.call_id for each in unresolved(await told(hub), machine)}


def _nothing_reserved(hub: RunningHub) -> bool:
    with psycopg.connect(hub.context.database_url) as connection:
        assert connection.execute(RESERVED).fetchone() == (0,)
    return True
