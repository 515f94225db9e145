"""A host is believed only after real sandboxes on it have been seen to isolate: what does not hold refuses the host."""

import contextlib
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

from events.machine import Limits
from hypervisors.local import cgroups
from hypervisors.local.sandbox import Place, Sandbox

PROBE_DEADLINE_S = 20.0
DIE_DEADLINE_S = 20.0
"""Milliseconds as a rule; more than 5 s were seen once on 2 cores with a load of 8, and refused a good host."""
PROBE_LIMITS = Limits(memory_mib=64, processes=24, disk_mib=8, cpu_milli=1000)
NAMESPACES = ("user", "mnt", "pid", "ipc", "uts", "net", "cgroup")

_REMEDY = (
    "the local hypervisor needs unprivileged user namespaces: sysctl user.max_user_namespaces must not be 0, "
    "kernel.unprivileged_userns_clone and kernel.apparmor_restrict_unprivileged_userns must not forbid them, and in a "
    "container the seccomp and AppArmor profiles must allow them"
)

_PROBE = r"""
say() { echo "$1=$2"; }
for n in user mnt pid ipc uts net cgroup; do say "ns_$n" "$(readlink /proc/self/ns/$n)"; done
say uid "$(id -u)"; say host "$(cat /proc/sys/kernel/hostname)"
while read -r key value _; do
  case $key in CapEff:|CapBnd:|NoNewPrivs:|Seccomp:) say "${key%:}" "$value";; esac
done < /proc/self/status
say env "$(env | cut -d= -f1 | sort | tr '\n' ' ')"
say canary "$(cat "$1" 2>/dev/null || echo hidden)"
say shadow "$(cat /etc/shadow 2>/dev/null | head -c 20; [ -e /etc/shadow ] || echo hidden)"
say home "$(cd / && echo root/* home/*)"
(exec 3<>"/dev/tcp/127.0.0.1/$2") 2>/dev/null && say loopback open || say loopback closed
say interfaces "$(tail -n +3 /proc/net/dev | cut -d: -f1 | tr -d ' ' | tr '\n' ' ')"
for d in / /usr /etc /dev /home /proc/sys/kernel; do ( : > "$d/autovibe-probe" ) 2>/dev/null && say "write" "$d"; done
for d in /workspace /home/agent /tmp; do ( : > "$d/autovibe-probe" ) 2>/dev/null || say "nowrite" "$d"; done
unshare -Ur true 2>/dev/null && say userns open || say userns closed
head -c 20000000 /dev/zero > /workspace/large 2>/dev/null && say fsize open || say fsize closed
(head -c 200000000 /dev/zero | tail -c 200000000 > /dev/null) 2>/dev/null && say memory open || say memory closed
sleep 0.2 & timer=$!
(for i in $(seq 60); do sleep 5 & done; say processes open) 2>/dev/null &
wait $timer
set -- /proc/[0-9]*; say processes_seen $#
say end end
"""


@dataclass(frozen=True, slots=True)
class _Probe:
    """A scratch incarnation for the probe."""

    groups: tuple[Path, ...]
    launcher: tuple[str, ...]


def problems(sandbox: Sandbox, groups: cgroups.Cgroups, data: Path) -> tuple[str, ...]:
    """Return what does not hold on this host, each with what helps; empty: it isolates. Blocks for about half a second."""
    canary = data / f"canary-{secrets.token_hex(8)}"
    canary.write_text("visible")
    try:
        with _place(sandbox, groups, data) as place, socket.create_server(("127.0.0.1", 0)) as server:
            port = server.getsockname()[1]
            with _way_out(sandbox, groups, data, port) as way_out:
                found = _facts(place, [str(canary), str(port)])
                isolated = tuple(_judge(found)) or tuple(_outlives_parent(place))
                return isolated or tuple(_leads_elsewhere(way_out))
    finally:
        canary.unlink()


@contextlib.contextmanager
def _way_out(sandbox: Sandbox, groups: cgroups.Cgroups, data: Path, closed: int) -> Generator[subprocess.Popen[str]]:
    """Have a sandbox with a way out try what it must not reach, beside the other probe: most of its time is imports."""
    with _place(sandbox, groups, data) as place:
        probe = subprocess.Popen(
            [sys.executable, "-P", "-m", "agent.wayprobe"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd="/",
            env={name: os.environ[name] for name in ("PATH", "LANG", "PYTHONPATH") if name in os.environ},
            start_new_session=True,
        )
        try:
            assert probe.stdin is not None
            with contextlib.suppress(BrokenPipeError):
                probe.stdin.write(json.dumps({"launcher": place.launcher, "closed": [closed]}) + "\n")
                probe.stdin.flush()
            yield probe
        finally:
            probe.kill()
            probe.communicate()


def _leads_elsewhere(probe: subprocess.Popen[str]) -> Iterator[str]:
    """What is wrong with the way out. One that was only too slow refuses no host: it is tried again by every machine."""
    try:
        said, complaint = probe.communicate(timeout=PROBE_DEADLINE_S)
    except subprocess.TimeoutExpired:
        return
    for line in said.splitlines():
        name, _, value = line.partition("=")
        if name == "reached":
            yield f"the sandbox reaches port {value} of the host's loopback"
        if name == "gateway" and value not in {"open", "late"}:
            yield f"the sandbox has no way to the gateway: {value}. Remedy: {_REMEDY}"
    if probe.returncode:
        yield f"the way out of a sandbox could not be tried: {complaint.strip()[-300:]}"


def _facts(place: _Probe, arguments: list[str]) -> dict[str, list[str]] | str:
    """Run the probe; what it said by name, or why it could not say anything."""
    probe = subprocess.Popen(
        [*place.launcher, "bash", "-c", _PROBE, "probe", *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={
            "PATH": os.environ.get("PATH", "/usr/bin:/bin"),
            "AUTOVIBE_AGENT": str(os.getpid()),
            "AUTOVIBE_SECRET": "visible",
        },
        cwd="/",
        start_new_session=True,
    )
    try:
        said, complaint = probe.communicate(timeout=PROBE_DEADLINE_S)
    except subprocess.TimeoutExpired:
        probe.kill()
        probe.communicate()
        return f"the probe did not end within {PROBE_DEADLINE_S} s"
    facts: dict[str, list[str]] = {}
    for line in said.decode(errors="replace").splitlines():
        name, _, value = line.partition("=")
        facts.setdefault(name, []).append(value.strip())
    if "end" not in facts:
        words = complaint.decode(errors="replace").strip()[-500:]
        return f"the probe ended with {probe.returncode} before it was done: {words}"
    return facts


def _judge(found: dict[str, list[str]] | str) -> Iterator[str]:
    if isinstance(found, str):
        yield f"no sandbox can be started: {found}. Remedy: {_REMEDY}"
        return
    facts = {name: values[0] for name, values in found.items()}
    for name in NAMESPACES:
        if facts.get(f"ns_{name}") in {None, "", str(Path(f"/proc/self/ns/{name}").readlink())}:
            yield f"the sandbox shares the host's {name} namespace. Remedy: {_REMEDY}"
    expected = {
        "uid": "1000", "host": "autovibe", "CapEff": "0" * 16, "CapBnd": "0" * 16, "NoNewPrivs": "1",
        "canary": "hidden", "shadow": "hidden", "home": "root/* home/agent", "loopback": "closed", "interfaces": "lo",
        "userns": "closed", "fsize": "closed", "memory": "closed", "env": "HOME LANG PATH PWD SHLVL _",
    }  # fmt: skip
    for name, value in expected.items():
        got = facts.get(name, "")
        if got != value:
            yield f"the sandbox's {name} is {got[:200]!r}, not {value!r}: it does not isolate; is bwrap the real one?"
    for where in found.get("write", []):
        yield f"the sandbox can write to {where}"
    for where in found.get("nowrite", []):
        yield f"the sandbox cannot write to {where}: is the data directory on a filesystem mounted read-only?"
    seen = int(facts.get("processes_seen", "0") or 0)
    if seen > PROBE_LIMITS.processes + cgroups.LAUNCHER_PROCESSES + 2 or "processes" in facts:
        limit = PROBE_LIMITS.processes
        yield f"the sandbox had {seen} processes, limit {limit}: run as another user than root, or with control groups"


def _outlives_parent(place: _Probe) -> Iterator[str]:
    """Start a sandbox below a parent, kill the parent, and see the sandbox end."""
    read, write = os.pipe()
    parent = subprocess.Popen(
        [
            "/bin/sh",
            "-c",
            'AUTOVIBE_AGENT=$$ "$@" & wait',
            "parent",
            *place.launcher,
            "bash",
            "-c",
            "echo up; setsid sleep 1000 & sleep 1000",
        ],
        stdin=subprocess.DEVNULL,
        stdout=write,
        stderr=subprocess.DEVNULL,
        cwd="/",
        start_new_session=True,
    )
    os.close(write)
    try:
        with os.fdopen(read, "rb", buffering=0) as inside:
            if inside.readline() != b"up\n":
                yield "a second sandbox could not be started"
                return
            parent.send_signal(signal.SIGKILL)
            parent.wait()
            if not _closes(inside.fileno(), DIE_DEADLINE_S):
                left = ", ".join(sorted({_shown(pid) for pid in _members(place.groups)}))
                yield f"a sandbox outlives its parent by more than {DIE_DEADLINE_S} s: processes {left}"
    finally:
        parent.kill()
        parent.wait()


def _closes(fd: int, deadline_s: float) -> bool:
    """Whether everybody who holds the other end of this pipe is gone in time."""
    os.set_blocking(fd, False)
    until = time.monotonic() + deadline_s
    while time.monotonic() < until:
        with contextlib.suppress(BlockingIOError):
            if os.read(fd, 1) == b"":
                return True
        time.sleep(0.005)
    return False


def _shown(pid: int) -> str:
    """A process with what it is, its state and what it waits for in the kernel."""
    try:
        _, _, stat = Path(f"/proc/{pid}/stat").read_text().partition(" ")
        return f"{pid} {stat[:24].rpartition(')')[0]}) {stat.rpartition(') ')[2][:1]} {Path(f'/proc/{pid}/wchan').read_text()}"
    except OSError:
        return f"{pid} gone"


def _members(groups: tuple[Path, ...]) -> Iterator[int]:
    for group in groups:
        yield from cgroups.processes(group)


@contextlib.contextmanager
def _place(sandbox: Sandbox, groups: cgroups.Cgroups, data: Path) -> Generator[_Probe]:
    machine_id = uuid4()
    root = data / f"probe-{machine_id}"
    made = groups.make(f"probe-{machine_id}", PROBE_LIMITS)
    uid = sandbox.host_uid(machine_id)
    try:
        for name in ("workspace", "home", "tmp"):
            (root / name).mkdir(parents=True)
            root.chmod(0o755)
            if sandbox.as_root:
                os.chown(root / name, uid, uid)
        place = Place(root, made, "memory" in groups.controllers)
        launcher = sandbox.launcher(place, machine_id, PROBE_LIMITS, PROBE_DEADLINE_S)
        yield _Probe(made, launcher)
    finally:
        cgroups.remove(made)
        shutil.rmtree(root, ignore_errors=True)
