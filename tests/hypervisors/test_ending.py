"""However a machine ends, and whoever is killed, nothing of it stays behind."""

import asyncio
import json
import os
import signal
import sys
from pathlib import Path

import pytest

from events.agent import AgentFinished, AgentRegistered, MachineSpec, Stop
from hypervisors.local import LocalHypervisor, LocalSettings
from tests.agent.machines import finished, report
from tests.agent.stack import Stack, stack_in
from tests.harness.places import short_directory
from tests.harness.waiting import eventually
from tests.hypervisors.processes import alive, of_machine

pytestmark = pytest.mark.asyncio(loop_scope="module")

ROOT = Path(__file__).parents[2]

HUB = """
import asyncio, json, sys
from pathlib import Path
from events.agent import MachineSpec
from hypervisors.local import LocalHypervisor, LocalSettings

async def main():
    async with LocalHypervisor(LocalSettings(Path(sys.argv[1]))) as hypervisor:
        specs = [MachineSpec.model_validate_json(line) for line in sys.argv[2:]]
        for spec in specs:
            await hypervisor.create(spec)
        print(json.dumps({"zygote": hypervisor.zygote.pid, "tested": hypervisor._tested.ok}), flush=True)
        await asyncio.sleep(1000)

asyncio.run(main())
"""


async def output_of(stack: Stack, spec: MachineSpec, lines: int = 1) -> list[str]:
    async def enough() -> list[str]:
        found = await stack.hub.text(spec.machine_id, spec.epoch)
        return found if len(found) >= lines else []

    return await eventually(enough)


async def stop(stack: Stack, spec: MachineSpec, grace_s: float = 1.0) -> AgentFinished:
    """Stop a machine, wait for its end and take it down."""
    assert await stack.hub.command(spec.machine_id, "Stop", Stop(reason="enough", grace_s=grace_s), spec.epoch) == {}
    end = await finished(stack.hub, spec.machine_id, spec.epoch)
    await stack.hypervisor.destroy(spec.machine_id, spec.epoch)
    return end


async def test_a_grandchild_with_a_session_of_its_own_ends_with_the_goal(any_stack: Stack) -> None:
    stack = any_stack
    goal = "setsid bash -c 'trap \"\" TERM INT HUP; echo up; sleep 1000' > /dev/null 2>&1 < /dev/null & sleep 0.2; echo done"
    spec = stack.base.spec(goal, stack.server.url)
    await stack.hypervisor.create(spec)
    end = await finished(stack.hub, spec.machine_id)
    assert end.outcome == "succeeded"
    assert of_machine(spec.machine_id) == []
    await stack.hypervisor.destroy(spec.machine_id, 1)


async def test_a_goal_that_ignores_every_signal_is_gone_when_its_grace_is_over(any_stack: Stack) -> None:
    stack = any_stack
    spec = stack.base.spec("trap '' INT TERM HUP QUIT; echo up; while :; do sleep 1; done", stack.server.url)
    await stack.hypervisor.create(spec)
    await output_of(stack, spec)
    end = await stop(stack, spec)
    assert (end.outcome, end.exit_code, end.reason) == ("cancelled", -9, "enough")
    assert end.checkpoint_id is not None
    assert of_machine(spec.machine_id) == []


async def test_a_goal_hears_the_interrupt_first_and_may_end_well(stack: Stack) -> None:
    spec = stack.base.spec(
        "trap 'echo saved > state; exit 7' INT; echo up; while :; do sleep 0.05; done", stack.server.url
    )
    await stack.hypervisor.create(spec)
    await output_of(stack, spec)
    end = await stop(stack, spec, grace_s=10)
    assert (end.outcome, end.exit_code) == ("cancelled", 7)


async def test_a_goal_that_kills_its_parent_and_all_it_can_see_only_ends_itself(stack: Stack) -> None:
    spec = stack.base.spec("kill -9 $PPID; kill -9 1; echo alive; kill -9 -1; sleep 1; kill -9 $$", stack.server.url)
    end = await stack.run(spec)
    assert end.outcome == "failed"
    assert end.exit_code == -9
    assert await stack.hub.text(spec.machine_id) == ["alive"]
    assert alive(stack.hypervisor.zygote.pid)


async def test_a_deadline_ends_a_goal_as_expired(stack: Stack) -> None:
    end = await stack.run(stack.base.spec("sleep 1000", stack.server.url, deadline_in_s=0.5))
    assert end.outcome == "expired"
    assert end.exit_code in {-2, -15, 130}


async def test_destroying_a_running_machine_kills_all_of_it(stack: Stack) -> None:
    spec = stack.base.spec("for i in 1 2 3; do setsid sleep 1000 & done; echo up; wait", stack.server.url)
    await stack.hypervisor.create(spec)
    await output_of(stack, spec)
    assert len(of_machine(spec.machine_id)) >= 5
    await stack.hypervisor.destroy(spec.machine_id, 1)
    assert of_machine(spec.machine_id) == []
    assert not stack.hypervisor.cgroups.directories(f"{spec.machine_id}.1")


async def test_creating_twice_makes_one_machine_even_at_the_same_time(stack: Stack) -> None:
    spec = stack.base.spec("echo up; sleep 1000", stack.server.url)
    vms = await asyncio.gather(*(stack.hypervisor.create(spec) for _ in range(5)))
    assert len(set(vms)) == 1
    assert vms[0].running
    assert [vm.machine_id for vm in await stack.hypervisor.list()].count(spec.machine_id) == 1
    await stack.hypervisor.destroy(spec.machine_id, 1)


async def test_an_agent_that_is_killed_takes_its_sandbox_with_it_and_is_said(stack: Stack) -> None:
    spec = stack.base.spec("echo up; sleep 1000", stack.server.url)
    await stack.hypervisor.create(spec)
    await output_of(stack, spec)
    os.kill((await report(stack.hub, spec.machine_id, AgentRegistered)).pid, signal.SIGKILL)
    async for gone in stack.hypervisor.exits():
        if gone.machine_id == spec.machine_id:
            assert (gone.epoch, gone.exit_code) == (1, -9)
            break
    await eventually(lambda: of_machine(spec.machine_id) == [])
    assert not next(vm for vm in await stack.hypervisor.list() if vm.machine_id == spec.machine_id).running
    assert (await stack.hypervisor.create(spec)).running is False
    await stack.hypervisor.destroy(spec.machine_id, 1)


async def test_a_killed_zygote_loses_its_machines_and_the_next_machine_gets_a_new_one() -> None:
    with short_directory() as directory:
        async with stack_in(directory) as stack:
            lost = stack.base.spec("echo up; sleep 1000", stack.server.url)
            await stack.hypervisor.create(lost)
            await output_of(stack, lost)
            os.kill(stack.hypervisor.zygote.pid, signal.SIGKILL)
            gone = await anext(aiter(stack.hypervisor.exits()))
            assert gone.machine_id == lost.machine_id
            await eventually(lambda: of_machine(lost.machine_id) == [])
            end, lines = await stack.goal("echo again")
            assert (end.outcome, lines) == ("succeeded", ["again"])


async def test_a_hub_killed_with_9_leaves_nothing_running_and_its_next_start_finds_and_reaps_the_rest() -> None:
    with short_directory() as directory:
        async with stack_in(directory) as stack:
            await stack.hypervisor.self_test()
            goal = "setsid sleep 1000 & trap '' TERM INT HUP; echo up; x=$(seq 100000); while :; do sleep 1; done"
            specs = [stack.base.spec(goal, stack.server.url) for _ in range(3)]
            hub = await asyncio.create_subprocess_exec(
                sys.executable, "-c", HUB, str(directory / "hub"), *(spec.model_dump_json() for spec in specs),
                stdout=asyncio.subprocess.PIPE, env={**os.environ, "PYTHONPATH": str(ROOT)},
            )  # fmt: skip
            assert hub.stdout is not None
            said = json.loads(await hub.stdout.readline())
            assert said["tested"]
            for spec in specs:
                await output_of(stack, spec)
                assert of_machine(spec.machine_id)
            hub.kill()
            await hub.wait()
            await eventually(lambda: not alive(said["zygote"]))
            for spec in specs:
                await eventually(lambda spec=spec: of_machine(spec.machine_id) == [])
            async with LocalHypervisor(LocalSettings(directory / "hub")) as again:
                left = await again.list()
                assert {vm.machine_id for vm in left} == {spec.machine_id for spec in specs}
                assert not any(vm.running for vm in left)
                for vm in left:
                    usage = await again.destroy(vm.machine_id, vm.epoch)
                    assert usage.started_at is not None
                assert await again.list() == []
                assert again.cgroups.leaves() == set()


@pytest.mark.timeout(180)
async def test_fifty_machines_at_once_all_end_well(stack: Stack) -> None:
    specs = [stack.base.spec(f"echo {n}; cp README copy-{n}", stack.server.url) for n in range(50)]
    ends = await asyncio.gather(*(stack.run(spec, timeout_s=150) for spec in specs))
    assert {end.outcome for end in ends} == {"succeeded"}
    assert all(end.checkpoint_id is not None for end in ends)
    said = [await stack.hub.text(spec.machine_id) for spec in specs]
    assert said == [[str(n)] for n in range(50)]
    assert not [vm for vm in await stack.hypervisor.list() if vm.machine_id in {spec.machine_id for spec in specs}]


async def test_a_hub_that_stops_leaves_its_machines_to_be_found_with_what_they_used_and_no_control_group() -> None:
    with short_directory() as directory:
        async with stack_in(directory) as stack:
            spec = stack.base.spec("x=$(seq 300000); echo up; sleep 1000", stack.server.url)
            await stack.hypervisor.create(spec)
            await output_of(stack, spec)
            groups = stack.hypervisor.cgroups
        assert of_machine(spec.machine_id) == []
        assert not any(hierarchy.base.exists() for hierarchy in groups.hierarchies)
        async with LocalHypervisor(LocalSettings(directory / "data")) as again:
            assert [vm.running for vm in await again.list()] == [False]
            usage = await again.destroy(spec.machine_id, 1)
            assert usage.cpu_s > 0
            assert usage.wall_s > 0
            assert usage.ended_at is not None
