"""Which control groups are found and what is written to them, in directories laid out as the kernel does."""

from pathlib import Path

import pytest

from events.machine import Limits
from hypervisors.local import cgroups
from hypervisors.local.cgroups import Cgroups

LIMITS = Limits(memory_mib=64, processes=10, cpu_milli=250)


class Host:
    """A pretended host: a /proc/self and mounted hierarchies below a directory."""

    def __init__(self, root: Path) -> None:
        self.proc = root / "proc"
        self.proc.mkdir()
        self.root = root
        self.mounts: list[str] = []
        self.own: list[str] = []
        self._write()

    def mount(self, name: str, kind: str, own: str, options: str) -> Path:
        where = self.root / name
        group = where / own.lstrip("/")
        for directory in (group, group / "autovibe", group / "autovibe" / "hub"):
            directory.mkdir(parents=True, exist_ok=True)
            (directory / "cgroup.procs").touch()
        self.mounts.append(f"30 20 0:25 / {where} rw - {kind} {kind} rw,{options}")
        controllers = ",".join(c for c in options.split(",") if c != "rw") if kind == "cgroup" else ""
        self.own.append(f"1:{controllers}:{own}")
        self._write()
        return group / "autovibe" / "hub"

    def _write(self) -> None:
        (self.proc / "mountinfo").write_text("\n".join(["21 1 8:1 / / rw - ext4 /dev/sda rw", *self.mounts]))
        (self.proc / "cgroup").write_text("\n".join(self.own))


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path)


def test_a_host_without_control_groups_enforces_nothing_by_them(host: Host) -> None:
    groups = Cgroups.discover("hub", host.proc)
    assert groups.controllers == frozenset()
    assert groups.make("m.1", LIMITS) == ()
    assert groups.description == ""


def test_version_1_has_a_directory_per_hierarchy_below_our_own_group(host: Host) -> None:
    memory = host.mount("memory", "cgroup", "/service", "memory")
    cpu = host.mount("cpu", "cgroup", "/", "cpu,cpuacct")
    pids = host.mount("pids", "cgroup", "/", "pids")
    groups = Cgroups.discover("hub", host.proc)
    assert set(groups.make("m.1", LIMITS)) == {memory / "m.1", cpu / "m.1", pids / "m.1"}
    assert (memory / "m.1/memory.limit_in_bytes").read_text() == str(64 * 1024 * 1024)
    assert (cpu / "m.1/cpu.cfs_quota_us").read_text() == "25000"
    assert (pids / "m.1/pids.max").read_text() == str(10 + cgroups.LAUNCHER_PROCESSES)
    assert groups.description == "cgroup v1: cpu memory pids"


def test_version_2_enables_its_controllers_all_the_way_down(host: Host) -> None:
    base = host.mount("unified", "cgroup2", "/", "nsdelegate")
    groups = Cgroups.discover("hub", host.proc)
    assert groups.description == "cgroup v2: cpu memory pids"
    groups.make("m.1", LIMITS)
    assert (base / "m.1/memory.max").read_text() == str(64 * 1024 * 1024)
    assert (base / "m.1/cpu.max").read_text() == "25000 100000"
    assert (base.parent / "cgroup.subtree_control").exists()


def test_on_a_hybrid_host_version_1_limits_and_version_2_only_freezes_and_kills(host: Host) -> None:
    for name in ("memory", "cpu", "pids"):
        host.mount(name, "cgroup", "/", name)
    base = host.mount("unified", "cgroup2", "/", "nsdelegate")
    groups = Cgroups.discover("hub", host.proc)
    groups.make("m.1", LIMITS)
    assert groups.description == "cgroup v1: cpu memory pids"
    assert list((base / "m.1").iterdir()) == []


def test_a_group_whose_limits_cannot_be_set_is_not_left_behind(host: Host) -> None:
    base = host.mount("pids", "cgroup", "/", "pids")
    (base / "m.1" / "pids.max").mkdir(parents=True)
    groups = Cgroups.discover("hub", host.proc)
    with pytest.raises(OSError, match="directory"):
        groups.make("m.1", LIMITS)


def test_reading_takes_what_either_version_says(tmp_path: Path) -> None:
    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    (tmp_path / "one/cpuacct.usage").write_text("1500000000\n")
    (tmp_path / "one/memory.usage_in_bytes").write_text("10\n")
    (tmp_path / "one/memory.max_usage_in_bytes").write_text("20\n")
    (tmp_path / "two/cpu.stat").write_text("usage_usec 2500000\nuser_usec 1\n")
    (tmp_path / "two/memory.peak").write_text("30\n")
    reading = cgroups.read([tmp_path / "one", tmp_path / "two"])
    assert (reading.cpu_s, reading.memory_bytes, reading.memory_peak_bytes) == (2.5, 10, 30)
