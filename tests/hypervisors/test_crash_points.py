"""What happens when a step of the driver is late, cut off, or finds no space."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from uuid import uuid4

import pytest

from events.agent import AgentRegistered
from events.machine import Limits
from hypervisors.local import sandbox, seccomp
from hypervisors.local import zygote as zygotes
from hypervisors.port import Unreachable
from tests.agent.machines import report
from tests.agent.stack import Stack
from tests.harness.waiting import eventually
from tests.hypervisors.processes import alive, of_machine

pytestmark = pytest.mark.asyncio(loop_scope="module")

CUT_OFF = """
import json, os, signal, subprocess, sys
env = {"PATH": os.environ["PATH"], "AUTOVIBE_AGENT": str(os.getpid())}
subprocess.Popen(json.loads(sys.argv[1]), env=env, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
os.kill(os.getpid(), signal.SIGKILL)
"""
"""An agent that is killed while its launcher is on the way to the sandbox."""


def agents_of(zygote: int) -> list[int]:
    children = Path(f"/proc/{zygote}/task/{zygote}/children").read_text().split()
    return [pid for pid in map(int, children) if alive(pid)]


async def test_a_fork_that_was_given_up_on_and_asked_for_again_makes_one_agent(
    stack: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    hypervisor = stack.hypervisor
    await hypervisor.self_test()
    monkeypatch.setattr(zygotes, "SILENCE_S", 0.3)
    spec = stack.base.spec("sleep 1000", stack.server.url)
    before = len(agents_of(hypervisor.zygote.pid))
    os.kill(hypervisor.zygote.pid, signal.SIGSTOP)
    for _ in range(3):
        with pytest.raises(Unreachable):
            await hypervisor.create(spec)
    os.kill(hypervisor.zygote.pid, signal.SIGCONT)

    async def made() -> bool:
        try:
            return (await hypervisor.create(spec)).running
        except Unreachable:
            return False

    monkeypatch.setattr(zygotes, "SILENCE_S", 10.0)
    await eventually(made)
    await report(stack.hub, spec.machine_id, AgentRegistered)
    other = stack.base.spec("true", stack.server.url)
    await stack.run(other)  # whatever was asked before is answered now
    registered = [each for each in await stack.hub.reports(spec.machine_id) if isinstance(each, AgentRegistered)]
    assert len(registered) == 1
    await eventually(lambda: len(agents_of(hypervisor.zygote.pid)) == before + 1)
    assert (await hypervisor.destroy(spec.machine_id, 1)).started_at is not None
    await eventually(lambda: len(agents_of(hypervisor.zygote.pid)) == before)
    assert of_machine(spec.machine_id) == []


async def test_a_fork_that_comes_after_its_machine_was_destroyed_does_not_stay(
    stack: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    hypervisor = stack.hypervisor
    await hypervisor.self_test()
    monkeypatch.setattr(zygotes, "SILENCE_S", 0.3)
    spec = stack.base.spec("sleep 1000", stack.server.url)
    before = len(agents_of(hypervisor.zygote.pid))
    os.kill(hypervisor.zygote.pid, signal.SIGSTOP)
    with pytest.raises(Unreachable):
        await hypervisor.create(spec)
    await hypervisor.destroy(spec.machine_id, 1)
    os.kill(hypervisor.zygote.pid, signal.SIGCONT)
    monkeypatch.setattr(zygotes, "SILENCE_S", 10.0)
    other = stack.base.spec("true", stack.server.url)
    await hypervisor.create(other)
    await hypervisor.destroy(other.machine_id, 1)
    await eventually(lambda: len(agents_of(hypervisor.zygote.pid)) == before)
    await eventually(lambda: f"{spec.machine_id}.1" not in hypervisor.zygote.running)


async def test_a_sandbox_whose_agent_is_killed_before_it_stands_never_stands(stack: Stack) -> None:
    """Without control groups nobody would find it again: its parent-death signal would be of another parent."""
    await stack.hypervisor.self_test()
    assert stack.hypervisor.sandbox is not None
    for _ in range(5):
        machine_id = uuid4()
        root = stack.directory / "data" / "cut" / str(machine_id)
        for name in ("workspace", "home", "tmp"):
            (root / name).mkdir(parents=True)
        place = sandbox.Place(root)
        launcher = stack.hypervisor.sandbox.launcher(place, machine_id, Limits(), 60)
        argv = json.dumps([*launcher, "sleep", "1000"])
        done = await asyncio.to_thread(
            subprocess.run, [sys.executable, "-c", CUT_OFF, argv], check=False, stderr=subprocess.DEVNULL
        )
        assert done.returncode == -signal.SIGKILL
        until = time.monotonic() + 0.5
        while time.monotonic() < until:
            await asyncio.sleep(0.05)
        left = of_machine(machine_id)
        for pid in left:
            os.kill(pid, signal.SIGKILL)
        assert left == []


async def test_a_disk_without_space_for_the_usage_record_does_not_keep_a_machine_from_being_destroyed(
    stack: Stack,
) -> None:
    """Destroying is what frees the disk."""
    spec = stack.base.spec("echo up; sleep 1000", stack.server.url)
    await stack.hypervisor.create(spec)
    root = stack.directory / "data" / "machines" / str(spec.machine_id)
    (root / ".1.usage.json.new").mkdir()  # nothing can be written there now
    usage = await stack.hypervisor.destroy(spec.machine_id, 1)
    assert usage.started_at is not None
    assert not (root / "1").exists()


async def test_metering_goes_on_for_others_when_it_fails_for_one(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hypervisors.local.driver.METER_SAVE_S", 0.0)
    unlucky = stack.base.spec("sleep 1000", stack.server.url)
    await stack.hypervisor.create(unlucky)
    machines = stack.directory / "data" / "machines"
    (machines / str(unlucky.machine_id) / ".1.usage.json.new").mkdir()
    other = stack.base.spec("sleep 1000", stack.server.url)
    await stack.hypervisor.create(other)
    try:
        await eventually((machines / str(other.machine_id) / "1.usage.json").exists)
    finally:
        for spec in (unlucky, other):
            await stack.hypervisor.destroy(spec.machine_id, 1)


@pytest.mark.parametrize("family", [38, 40, 17], ids=["AF_ALG", "AF_VSOCK", "AF_PACKET"])
async def test_sockets_that_no_network_namespace_confines_are_refused(stack: Stack, family: int) -> None:
    """AF_VSOCK reaches the hypervisor below from every network namespace; the others are kernel surface for nothing."""
    if seccomp.program() is None:
        pytest.fail("this processor's call numbers are not known")
    code = f"import socket; socket.socket({family}, 2, 0)"
    end, lines = await stack.goal(f"python3 -c '{code}' 2>&1 | tail -1")
    assert end.outcome == "succeeded"
    assert "PermissionError: [Errno 1]" in lines[-1]


async def test_ordinary_sockets_still_work(stack: Stack) -> None:
    code = (
        "import socket; [socket.socket(f) for f in (1, 2, 10)]; socket.socketpair(); socket.socket(16, 3, 0); print(1)"
    )
    _, lines = await stack.goal(f"python3 -c '{code}'")
    assert lines == ["1"]
