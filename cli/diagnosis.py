"""What `autovibe doctor` looks at: the host, the wheels, the sandbox, the hub. Each check says what helps."""

import asyncio
import platform
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from cli.exits import CliError
from cli.hub import connect

DISK_FREE_BYTES_MIN = 2 * 1024**3
SELF_TEST_S = 60.0


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at."""

    what: str
    ok: bool
    detail: str
    remedy: str = ""


def findings() -> Iterator[Finding]:
    """Look at everything; a check that itself fails is a finding too."""
    checks: tuple[Callable[[], Finding], ...] = (
        _python,
        _nats,
        _postgres,
        _namespaces,
        _disk,
        _sandbox,
        *_AGENTS,
        _hub,
    )
    for check in checks:
        try:
            yield check()
        except CliError as error:
            yield Finding(_name(check), ok=False, detail=error.message, remedy=error.remedy)
        except Exception as error:  # noqa: BLE001  # what cannot even be looked at is what a user wants to be told
            yield Finding(_name(check), ok=False, detail=f"{type(error).__name__}: {error}")


def _name(check: Callable[[], Finding]) -> str:
    return getattr(check, "__name__", "agent").strip("_")


def _python() -> Finding:
    ok = sys.version_info >= (3, 11)
    return Finding("python", ok, platform.python_version(), "" if ok else "install Python 3.11 or later")


def _nats() -> Finding:
    from cli.stack import binaries  # noqa: PLC0415  # as all imports here: doctor runs where something may be missing

    return Finding("nats-server", ok=True, detail=str(binaries.nats_server()))


def _postgres() -> Finding:
    from cli.stack import binaries  # noqa: PLC0415

    return Finding("postgresql", ok=True, detail=str(binaries.postgres("postgres")))


def _namespaces() -> Finding:
    limit = Path("/proc/sys/user/max_user_namespaces")
    allowed = int(limit.read_text()) if limit.exists() else 0
    return Finding(
        "user namespaces",
        allowed > 0,
        f"{allowed} allowed",
        "" if allowed else "sysctl user.max_user_namespaces=10000",
    )


def _disk() -> Finding:
    free = shutil.disk_usage(Path.cwd()).free
    ok = free >= DISK_FREE_BYTES_MIN
    detail = f"{free // 1024**2} MiB free, wanted {DISK_FREE_BYTES_MIN // 1024**2} MiB"
    return Finding("disk", ok, detail, "" if ok else "free some, or give dev --data on another disk")


def _sandbox() -> Finding:
    from hypervisors.local.driver import LocalHypervisor, LocalSettings  # noqa: PLC0415

    async def test() -> Finding:
        with tempfile.TemporaryDirectory(prefix="av-doctor-") as scratch:
            async with asyncio.timeout(SELF_TEST_S), LocalHypervisor(LocalSettings(data=Path(scratch))) as driver:
                result = await driver.self_test()
        return Finding(
            "sandbox",
            result.ok,
            f"{result.enforcement} ({result.took_ms} ms)" if result.ok else "; ".join(result.problems),
            "" if result.ok else "machines cannot be isolated on this host; nothing is started on it",
        )

    return asyncio.run(test())


def _agent(machine_type: str) -> Finding:
    """An agent that is not here is no fault of the host: its type of machine is refused, with the same words."""
    from events.words import MachineType  # noqa: PLC0415
    from services.spawner.settings import SpawnerSettings  # noqa: PLC0415
    from services.spawner.tools import ToolMissing, Tools  # noqa: PLC0415

    name = f"agent {machine_type}"
    try:
        tool = Tools(SpawnerSettings()).find(MachineType(machine_type))
    except ToolMissing as missing:
        return Finding(name, ok=True, detail=f"not offered, {missing.what}", remedy=missing.remedy)
    assert tool is not None, "these agents are programs"
    return Finding(name, ok=True, detail=f"{tool.version}, {' '.join(tool.command)}")


_AGENTS: tuple[Callable[[], Finding], ...] = tuple(
    partial(_agent, each) for each in ("claude_code", "qwen_coder", "aider")
)


def _hub() -> Finding:
    hub = connect()
    try:
        status = hub.get("/api/v1/status")
    except CliError as error:
        return Finding("hub", ok=False, detail=error.message, remedy=error.remedy)
    behind = status["read_model"]["behind"]
    return Finding(
        "hub", ok=True, detail=f"{hub.context.url}, log at {status['log']['seq']}, read model {behind} behind"
    )
