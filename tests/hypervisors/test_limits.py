"""What a goal may use, and what happens when it wants more: the machine ends, the host does not notice."""

import asyncio
import time

import pytest

from events.machine import Limits
from hypervisors.port import Refused
from tests.agent.machines import SMALL, finished
from tests.agent.stack import Stack
from tests.harness.waiting import eventually
from tests.hypervisors.processes import of_machine

pytestmark = pytest.mark.asyncio(loop_scope="module")

FORK_BOMB = "bomb() { bomb | bomb & }; echo up; bomb; while :; do :; done"


async def test_a_script_that_forks_for_ever_stays_below_its_limit_and_ends_at_its_deadline(
    any_stack: Stack,
) -> None:
    stack = any_stack
    limits = SMALL.model_copy(update={"processes": 40})
    spec = stack.base.spec(FORK_BOMB, stack.server.url, limits=limits, deadline_in_s=2.0)
    await stack.hypervisor.create(spec)
    peak = 0
    ending = asyncio.create_task(finished(stack.hub, spec.machine_id, timeout_s=30))
    while not ending.done():
        peak = max(peak, len(of_machine(spec.machine_id)))
        await asyncio.wait({ending}, timeout=0.05)
    assert (await ending).outcome == "expired"
    await stack.hypervisor.destroy(spec.machine_id, 1)
    assert 20 < peak <= 40 + 3
    assert of_machine(spec.machine_id) == []


async def test_a_script_that_wants_more_memory_than_its_limit_is_ended(any_stack: Stack) -> None:
    stack = any_stack
    spec = stack.base.spec("set -o pipefail; head -c 400000000 /dev/zero | tail -c 400000000 | wc -c", stack.server.url)
    end = await stack.run(spec)
    assert end.outcome == "failed"
    assert await stack.hub.text(spec.machine_id) in ([], ["0"])


async def test_a_script_killed_for_its_memory_is_told_so(stack: Stack) -> None:
    if "memory" not in stack.hypervisor.cgroups.controllers:
        pytest.skip("this host has no memory controller that we may use")
    spec = stack.base.spec(
        "set -o pipefail; head -c 400000000 /dev/zero | tail -c 400000000 > /dev/null", stack.server.url
    )
    end = await stack.run(spec)
    assert end.outcome == "failed"
    assert "128 MiB" in end.reason


async def test_many_small_processes_together_are_held_to_the_memory_limit_without_control_groups(
    plain_stack: Stack,
) -> None:
    goal = "for i in 1 2 3 4; do (x=$(head -c 50000000 /dev/zero | tr '\\0' x); sleep 20) & done; wait"
    end, _ = await plain_stack.goal(goal)
    assert end.outcome == "failed"
    assert "limit 128 MiB" in end.reason


async def test_no_file_grows_beyond_the_disk_limit(stack: Stack) -> None:
    limits = SMALL.model_copy(update={"disk_mib": 4})
    goal = "trap '' XFSZ; head -c 50000000 /dev/zero > large; stat -c %s large; rm large"
    spec = stack.base.spec(goal, stack.server.url, limits=limits)
    await stack.run(spec)
    assert await stack.hub.text(spec.machine_id) == [str(4 * 1024 * 1024)]


@pytest.mark.parametrize("place", ["/workspace", "/tmp", "/home/agent"])
async def test_a_script_that_fills_the_disk_is_ended_and_told_so(stack: Stack, place: str) -> None:
    limits = SMALL.model_copy(update={"disk_mib": 16})
    goal = f"cd {place}; for i in $(seq 100); do head -c 1000000 /dev/urandom > f$i; sleep 0.02; done; sleep 30"
    end = await stack.run(stack.base.spec(goal, stack.server.url, limits=limits))
    assert (end.outcome, end.exit_code) == ("failed", -9)
    assert "limit 16 MiB" in end.reason


async def test_files_that_are_removed_while_they_are_open_count_for_the_disk_limit(stack: Stack) -> None:
    limits = SMALL.model_copy(update={"disk_mib": 16})
    goal = "for i in $(seq 10); do exec {fd}> f; rm f; head -c 5000000 /dev/zero >&$fd; done; echo full; sleep 15"
    end = await stack.run(stack.base.spec(goal, stack.server.url, limits=limits), timeout_s=30)
    assert end.outcome == "failed"
    assert "limit 16 MiB" in end.reason


async def test_a_script_that_writes_a_million_files_is_ended_by_its_disk_limit(stack: Stack) -> None:
    goal = "i=0; while [ $i -lt 1000000 ]; do : > f$i; i=$((i + 1)); done; sleep 60"
    limits = SMALL.model_copy(update={"disk_mib": 32})
    spec = stack.base.spec(goal, stack.server.url, limits=limits)
    end = await stack.run(spec, timeout_s=40)
    assert end.outcome == "failed"
    assert "limit 32 MiB" in end.reason


async def test_a_busy_script_gets_no_more_of_a_core_than_its_limit(stack: Stack) -> None:
    if "cpu" not in stack.hypervisor.cgroups.controllers:
        pytest.skip("this host has no cpu controller that we may use")
    limits = SMALL.model_copy(update={"cpu_milli": 200})
    spec = stack.base.spec("timeout 1.5 bash -c 'while :; do :; done'; true", stack.server.url, limits=limits)
    await stack.hypervisor.create(spec)
    await finished(stack.hub, spec.machine_id)
    usage = await stack.hypervisor.destroy(spec.machine_id, 1)
    assert 0.1 < usage.cpu_s < 0.75


@pytest.mark.parametrize(
    ("limits", "said"),
    [
        (Limits(memory_mib=4_194_304), "asked 4194304 MiB of memory"),
        (Limits(cpu_milli=256_000), "asked 256000 thousandths"),
    ],
)
async def test_what_the_host_does_not_have_is_refused_in_numbers(stack: Stack, limits: Limits, said: str) -> None:
    spec = stack.base.spec("true", stack.server.url, limits=limits)
    with pytest.raises(Refused, match=said):
        await stack.hypervisor.create(spec)
    assert spec.machine_id not in {vm.machine_id for vm in await stack.hypervisor.list()}


async def test_what_a_goal_used_is_known_after_it_is_gone(any_stack: Stack) -> None:
    stack = any_stack
    spec = stack.base.spec("x=$(head -c 30000000 /dev/zero | tr '\\0' x); sleep 2.5", stack.server.url)
    started = time.monotonic()
    await stack.hypervisor.create(spec)
    await finished(stack.hub, spec.machine_id)
    usage = await stack.hypervisor.destroy(spec.machine_id, 1)
    took_s = time.monotonic() - started
    assert 2.5 < usage.wall_s <= took_s + 0.1
    assert usage.cpu_s > 0.01
    assert usage.memory_peak_bytes > 30_000_000
    assert usage.memory_byte_s > 1_000_000
    assert await stack.hypervisor.destroy(spec.machine_id, 1) == usage
    assert await stack.hypervisor.usage(spec.machine_id, 1) == usage


async def test_nothing_of_a_destroyed_machine_is_left_on_the_host(stack: Stack) -> None:
    deep = "mkdir -p $(printf 'd/%.0s' $(seq 1500)); mkdir -m 0 locked; touch $'odd\\nname'"
    spec = stack.base.spec(deep, stack.server.url)
    await stack.hypervisor.create(spec)
    vm = next(vm for vm in await stack.hypervisor.list() if vm.machine_id == spec.machine_id)
    await finished(stack.hub, spec.machine_id, timeout_s=30)
    await stack.hypervisor.destroy(spec.machine_id, 1)
    assert spec.machine_id not in {each.machine_id for each in await stack.hypervisor.list()}
    assert not (stack.directory / "data" / "machines" / str(spec.machine_id) / "1").exists()
    assert vm.vm_id not in stack.hypervisor.cgroups.leaves()
    await eventually(lambda: of_machine(spec.machine_id) == [])
    await eventually(lambda: not any((stack.directory / "data" / "trash").iterdir()))
