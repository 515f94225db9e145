"""Create to first line of the goal's output, on a warm stack and a workspace of 1,000 files; and 50 machines at once.

    python -m bench.spawn [--rounds 20] [--files 1000] [--at-once 50]

Beside it, in turn with it, what the sandbox alone costs: the same launcher with nothing to restore, report or capture.
"""

import argparse
import asyncio
import os
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from uuid import uuid4

from nats.aio.subscription import Subscription

from cli.stack.nats import EmbeddedNats
from events.agent import AgentFinished, MachineSpec
from events.machine import Limits
from hypervisors.local import LocalHypervisor, LocalSettings
from hypervisors.local.sandbox import Place
from tests.agent.hub import Hub, hub_of
from tests.agent.machines import Base, finished

LINE_DEADLINE_S = 30.0


def fill(files: int, tree: Path) -> None:
    """Make a tree of small files in thirty directories."""
    for n in range(files):
        directory = tree / f"d{n % 30}"
        directory.mkdir(exist_ok=True)
        (directory / f"f{n}.py").write_text(f"value = {n}\n" * 60)


async def first_line_ms(hypervisor: LocalHypervisor, hub: Hub, spec: MachineSpec) -> tuple[float, float, float]:
    """Return create to first line, create to reported end, and destroy; in ms."""
    lines: Subscription = await hub.nc.subscribe(f"out.{spec.project}.{spec.machine_id}.{spec.epoch}")
    await hub.nc.flush()
    started = time.perf_counter()
    await hypervisor.create(spec)
    await lines.next_msg(LINE_DEADLINE_S)
    first = time.perf_counter()
    await finished(hub, spec.machine_id)
    ended = time.perf_counter()
    await hypervisor.destroy(spec.machine_id, spec.epoch)
    gone = time.perf_counter()
    await lines.unsubscribe()
    return (first - started) * 1e3, (ended - started) * 1e3, (gone - ended) * 1e3


async def sandbox_ms(hypervisor: LocalHypervisor, directory: Path) -> float:
    """Return what starting a sandbox, one line from it and its end take, without an agent."""
    confine = hypervisor.sandbox
    assert confine is not None
    machine_id = uuid4()
    root = directory / str(machine_id)
    for name in ("workspace", "home", "tmp"):
        (root / name).mkdir(parents=True)
    launcher = confine.launcher(Place(root), machine_id, Limits(), 60)
    started = time.perf_counter()
    process = await asyncio.create_subprocess_exec(
        *(*launcher, "bash", "-c", "echo up"),
        stdout=asyncio.subprocess.PIPE,
        env={**os.environ, "AUTOVIBE_AGENT": str(os.getpid())},
    )
    await process.communicate()
    return (time.perf_counter() - started) * 1e3


def row(name: str, values: Sequence[float]) -> str:
    cut = sorted(values)
    p95 = cut[min(len(cut) - 1, int(len(cut) * 0.95))]
    return f"{name:34} p50 {statistics.median(cut):7.1f}   p95 {p95:7.1f}   min {cut[0]:7.1f}   max {cut[-1]:7.1f} ms"


async def measure(rounds: int, files: int, at_once: int, directory: Path) -> None:
    base = Base(directory / "base", lambda tree: fill(files, tree))
    settings = LocalSettings(directory / "data")
    async with (
        EmbeddedNats(directory / "nats") as server,
        hub_of(server.url) as hub,
        LocalHypervisor(settings) as hypervisor,
    ):
        tested = await hypervisor.self_test()
        print(f"{tested.enforcement}; self-test {tested.took_ms} ms")
        if not tested.ok:
            raise SystemExit("; ".join(tested.problems))
        alone: list[float] = []
        whole: list[tuple[float, float, float]] = []
        for n in range(rounds + 1):
            spec = base.spec("echo up; ls | wc -l", server.url)
            times = await first_line_ms(hypervisor, hub, spec)
            bare = await sandbox_ms(hypervisor, directory)
            if n:
                whole.append(times)
                alone.append(bare)
        print(row("sandbox alone, start to end", alone))
        for index, name in enumerate(("create to first line", "create to final checkpoint reported", "destroy")):
            print(row(name, [times[index] for times in whole]))
        await crowd(hypervisor, hub, [base.spec("echo up; cat d1/* | wc -l", server.url) for _ in range(at_once)])


async def crowd(hypervisor: LocalHypervisor, hub: Hub, specs: list[MachineSpec]) -> None:
    started = time.perf_counter()

    async def one(spec: MachineSpec) -> AgentFinished:
        await hypervisor.create(spec)
        end = await finished(hub, spec.machine_id, timeout_s=120)
        await hypervisor.destroy(spec.machine_id, spec.epoch)
        return end

    ends = await asyncio.gather(*(one(spec) for spec in specs))
    well = sum(end.outcome == "succeeded" for end in ends)
    print(f"{len(specs)} machines at once: {well} succeeded, {time.perf_counter() - started:.1f} s in all")


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--rounds", type=int, default=20)
    arguments.add_argument("--files", type=int, default=1000)
    arguments.add_argument("--at-once", type=int, default=50)
    asked = arguments.parse_args()
    with tempfile.TemporaryDirectory(prefix="av-bench-", dir="/tmp") as directory:
        asyncio.run(measure(asked.rounds, asked.files, asked.at_once, Path(directory)))


if __name__ == "__main__":
    main()
