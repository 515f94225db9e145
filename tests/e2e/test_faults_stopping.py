"""Told to stop, at work or while it starts: it ends in order, soon, with nothing left, and goes on at the next start."""

import asyncio
import signal
import time

import pytest

from events.words import Outcome
from tests.harness import eventually, processes, short_directory
from tests.harness.hub import READY_S, STOP_S, RunningHub, running_hub
from tests.harness.invariants import at_work, nothing_left, proved
from tests.harness.knocking import COUNTS, beside, knocking

pytestmark = pytest.mark.timeout(240)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_hub_at_work_stops_in_order_and_goes_on_at_the_next_start(number: signal.Signals) -> None:
    async with running_hub() as hub, knocking(hub) as knocks:
        await knocks.project("shop")
        machines = [await knocks.machine("shop", COUNTS) for _ in range(4)]
        await at_work(hub, machines[:2])
        async with beside(knocks, ["shop"]):
            await eventually(lambda: len(knocks.answers) > 20)
            known = processes.tree(hub.process.pid)
            started_s = time.monotonic()
            assert await hub.stop(number) == 0, hub.said
            assert time.monotonic() - started_s < STOP_S
            await nothing_left(hub, known, 1)
            await hub.start()
        story = await proved(hub, knocks, machines)
        assert {ended.outcome for machine in machines if (ended := story.ended(machine))} == {Outcome.SUCCEEDED}
        assert "Traceback" not in hub.said, hub.said


@pytest.mark.parametrize("after_s", [0.6, 1.2, 2.0])
async def test_ctrl_c_while_it_starts_leaves_nothing_running(after_s: float) -> None:
    with short_directory() as directory:
        hub = RunningHub(directory)
        starting = asyncio.ensure_future(hub.start())
        await asyncio.wait({starting}, timeout=after_s)
        known = processes.tree(hub.process.pid)
        hub.process.send_signal(signal.SIGINT)
        async with asyncio.timeout(STOP_S):
            code = await hub.process.wait()
        assert code in {0, 130, -signal.SIGINT}
        await asyncio.wait({starting}, timeout=READY_S)
        await nothing_left(hub, known, 1)
        await hub.start()
        assert await hub.stop() == 0
