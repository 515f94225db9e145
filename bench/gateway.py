"""A model call through the gateway: beside the provider alone, a bare pass-through and LiteLLM's proxy, interleaved.

    python -m bench.gateway [--seconds 2] [--rounds 3] [--no-litellm]

Everything runs on this machine, each in a process of its own, with a stub of Anthropic's API behind it that answers at
once: 40 kB asked, a whole message or a stream of 20 chunks answered. `memory` is our gateway with its ledger in memory,
`durable` the gateway, the budget and nats-server as they run in a hub: a call is set aside on disk before it is sent.
`slow` is `memory` where settling takes half a second, which no client may notice. LiteLLM, the peer, is installed apart,
into `.bench/`, at the first run. Differences and ratios are those within a round, and of these the median.
"""

import argparse
import asyncio
import hashlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from decimal import Decimal
from pathlib import Path
from uuid import UUID

import uvloop

from bench.gateway_goals import goals, report
from bench.gateway_load import MACHINES, MODEL, STREAMS_OPEN, Variant, call, connected, measured, open_streams
from cli.stack.nats import EmbeddedNats
from events import address as at
from events import machine as m
from events.base import Event
from events.budget import BudgetRequested
from events.credential import CredentialIssued
from events.envelope import Cause
from events.fresh import uuid7
from events.ids import HUB
from events.project import CheckpointPolicy, ProjectCreated
from events.words import MachineType, Resource, Role, Unit
from services.kit import topology
from services.kit.bus import Bus, BusSettings
from services.kit.log import Write
from tests.harness import free_port, short_directory
from tests.harness.services import listens

SHOP = "bench"
WARM_CALLS = 20
LITELLM_KEY = "sk-bench"
LITELLM = "litellm[proxy]==1.108.7"
LITELLM_HOME = Path(__file__).parent.parent / ".bench" / "litellm"
START_S = 120.0
PRICE = {"model": "bench-*", "provider": "bench", "input": "1", "output": "1", "currency": "CAD"}


@asynccontextmanager
async def process(argv: list[str], port: int, **environment: str) -> AsyncGenerator[int]:
    """Run it until the block ends; it is there when its port listens."""
    with tempfile.TemporaryFile() as said:
        environ = {**os.environ, **environment}
        started = await asyncio.create_subprocess_exec(*argv, env=environ, stdout=said, stderr=said)
        try:
            async with asyncio.timeout(START_S):
                while not await listens(port):
                    if started.returncode is not None:
                        said.seek(0)
                        raise RuntimeError(f"{argv}: {said.read()[-2_000:].decode(errors='replace')}")
                    await asyncio.sleep(0.05)
            yield started.pid
        finally:
            if started.returncode is None:
                started.terminate()
            async with asyncio.timeout(START_S):
                await started.wait()


async def happen(bus: Bus, address: at.Address, *events: Event) -> None:
    history = await bus.log.load(address)
    await bus.log.append(Write(address, history.seq, events), cause=Cause("bench"))


def cad(amount: str) -> BudgetRequested:
    return BudgetRequested(resource=Resource.MONEY, amount=Decimal(amount), unit=Unit.CAD)


async def a_machine(bus: Bus, number: int) -> tuple[UUID, str]:
    """Have a machine run, as far as gateway and budget know; returns its token, too."""
    machine_id, token = uuid7(), f"avm_bench_{number}_{uuid7()}"
    where = at.machine(SHOP, machine_id)
    request = m.MachineRequested(
        goal="bench", machine_type=MachineType.CLAUDE_API, model=MODEL, budget=Decimal(1_000),
        limits=m.Limits(deadline_s=86_400),
    )  # fmt: skip
    await happen(bus, where, request)
    await admitted(bus, where)
    await happen(
        bus,
        at.Address(SHOP, "credential", str(uuid7())),
        CredentialIssued(
            kind="machine", name="bench", role=Role.OPERATOR, projects=(SHOP,), machine_id=machine_id, epoch=1,
            key_sha256=hashlib.sha256(token.encode()).hexdigest(),
        ),
    )  # fmt: skip
    await happen(
        bus,
        where,
        m.MachineProvisioningStarted(
            epoch=1, from_checkpoint_id=uuid7(), snapshot="0" * 64, node="bench", on_trunk=True, hypervisor="local"
        ),
    )
    return machine_id, token


async def admitted(bus: Bus, where: at.Address) -> None:
    async with asyncio.timeout(30):
        while not any(isinstance(each.event, m.MachineAdmitted) for each in (await bus.log.load(where)).events):
            await asyncio.sleep(0.02)


@asynccontextmanager
async def budget_running() -> AsyncGenerator[tuple[Bus, str, int]]:
    """A log and a budget with money, each in its process; gives the server's URL and the budget's process id, too."""
    with short_directory() as directory:
        async with EmbeddedNats(directory) as nats, Bus.connect(BusSettings(nats_url=nats.url), name="bench") as bus:
            await topology.apply(bus)
            port = free_port()
            environment = {
                "AUTOVIBE_NATS_URL": nats.url, "AUTOVIBE_LOG_LEVEL": "warning", "AUTOVIBE_HEALTH_PORT": str(port),
                "AUTOVIBE_PRICES_OWN": json.dumps([PRICE]), "AUTOVIBE_PRICES_PACKAGED": "false",
                "AUTOVIBE_VCPU_HOUR_CAD": "0", "AUTOVIBE_GIB_HOUR_CAD": "0",
            }  # fmt: skip
            await happen(bus, at.budget(HUB, HUB), cad("1000000"))
            policy = CheckpointPolicy(between_calls="never")
            await happen(bus, at.project(SHOP), ProjectCreated(checkpoint_policy=policy))
            async with process([sys.executable, "-m", "services.budget"], port, **environment) as pid:
                yield bus, nats.url, pid


@asynccontextmanager
async def stack(*, has_peer: bool) -> AsyncGenerator[tuple[list[Variant], int]]:
    """Everything that is measured, running."""
    async with AsyncExitStack() as exits:
        bus, nats_url, _ = await exits.enter_async_context(budget_running())
        parts = [sys.executable, "-m", "bench.gateway_parts"]
        ports = {name: free_port() for name in ("stub", "through", "memory", "slow", "durable", "litellm")}
        url = f"http://127.0.0.1:{ports['stub']}"
        upstream = {"name": "bench", "protocol": "anthropic", "base_url": url, "credential": "key"}
        gateway = {
            "AUTOVIBE_NATS_URL": nats_url, "AUTOVIBE_LOG_LEVEL": "warning",
            "AUTOVIBE_GATEWAY_UPSTREAMS": json.dumps([upstream]),
        }  # fmt: skip
        stub = await exits.enter_async_context(process([*parts, "stub", str(ports["stub"])], ports["stub"]))
        tokens = [(await a_machine(bus, number))[1] for number in range(MACHINES)]
        variants = [Variant("direct", ports["stub"], stub, tokens)]
        argv = [*parts, "through", str(ports["through"]), url]
        pid = await exits.enter_async_context(process(argv, ports["through"]))
        variants.append(Variant("pass-through", ports["through"], pid, tokens))
        services = (
            ("memory", [*parts, "memory", "0"]),
            ("slow", [*parts, "memory", "0.5"]),
            ("durable", [sys.executable, "-m", "services.gateway"]),
        )
        for name, argv in services:
            own = {**gateway, "AUTOVIBE_GATEWAY_PORT": str(ports[name]), "AUTOVIBE_HEALTH_PORT": str(free_port())}
            pid = await exits.enter_async_context(process(argv, ports[name], **own))
            variants.append(Variant(name, ports[name], pid, tokens))
        if has_peer:
            directory = Path(exits.enter_context(tempfile.TemporaryDirectory()))
            variants.append(await exits.enter_async_context(peer(directory, ports["litellm"], url)))
        yield variants, ports["stub"]


def installed() -> Path:
    """Install LiteLLM into an environment of its own, once. Returns its program."""
    program = LITELLM_HOME / "bin" / "litellm"
    if not program.exists():
        uv = str(Path(sys.executable).with_name("uv"))
        subprocess.run([uv, "venv", "-q", "--clear", "--python", sys.executable, LITELLM_HOME], check=True)
        python = LITELLM_HOME / "bin" / "python"
        subprocess.run([uv, "pip", "install", "-q", "--python", python, LITELLM], check=True)
    return program


@asynccontextmanager
async def peer(directory: Path, port: int, url: str) -> AsyncGenerator[Variant]:
    """LiteLLM's proxy with one worker, its own Anthropic route, logging nothing."""
    config = directory / "litellm.yaml"
    model = {"model": f"anthropic/{MODEL}", "api_base": url, "api_key": "key"}
    settings = {"model_list": [{"model_name": MODEL, "litellm_params": model}]}
    config.write_text(json.dumps(settings))
    argv = [str(installed()), "--config", str(config), "--port", str(port), "--host", "127.0.0.1"]
    environment = {
        "LITELLM_LOG": "ERROR",
        "LITELLM_LOCAL_MODEL_COST_MAP": "True",
        "LITELLM_TELEMETRY": "False",
        "LITELLM_MASTER_KEY": LITELLM_KEY,
    }
    async with process([*argv, "--num_workers", "1"], port, **environment) as pid:
        yield Variant("LiteLLM", port, pid, [LITELLM_KEY])


async def main(seconds: float, rounds: int, *, has_peer: bool) -> int:
    print(f"load {os.getloadavg()[0]:.1f}")
    kinds = ("whole", "stream")
    async with stack(has_peer=has_peer) as (variants, stub_port):
        for each in variants:
            answer = await connected(each)
            for number in range(WARM_CALLS):
                await call(answer, each.request(stream=bool(number % 2)))
        for kind in kinds:
            for _ in range(rounds):
                for each in variants:
                    each.runs.setdefault(kind, []).append(await measured(each, seconds, stream=kind == "stream"))
            report(variants, kind)
        durable = next(each for each in variants if each.name == "durable")
        before, during = await open_streams(durable, stub_port)
    print(f"\nmemory of the gateway {before:.0f} MiB, with {STREAMS_OPEN} streams open {during:.0f}\n")
    found = goals(variants, kinds, {"durable": during})
    print(*found, sep="\n")
    return 0 if all(goal.is_reached for goal in found) else 1


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--no-litellm", action="store_true")
    given = parser.parse_args()
    sys.exit(uvloop.run(main(given.seconds, given.rounds, has_peer=not given.no_litellm)))
