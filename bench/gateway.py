"""A model call through the gateway: beside the provider alone, a bare pass-through and LiteLLM's proxy, interleaved.

    python -m bench.gateway [--litellm PYTHON] [--seconds 2] [--rounds 3]

Everything runs on this machine, each in a process of its own, with a stub of Anthropic's API behind it that answers at
once: 40 kB asked, a whole message or a stream of 20 chunks answered. `memory` is our gateway with its ledger in memory,
`durable` the gateway, the budget and nats-server as they run in a hub: a call is set aside on disk before it is sent.
LiteLLM is the peer where `--litellm` names the interpreter of an environment of its own that has `litellm[proxy]`.
"""

import argparse
import asyncio
import hashlib
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import cast
from uuid import UUID

import uvloop

from bench.query import cpu_s
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

SHOP = "bench"
MODEL = "bench-model"
MACHINES = 16
STREAMS_OPEN = 200
WARM_CALLS = 20
START_S = 120.0
ANSWER_S = 60.0
PROMPT = "x" * 40_000
PRICE = {"model": "bench-*", "provider": "bench", "input": "1", "output": "1", "currency": "CAD"}


class Answer(asyncio.Protocol):
    """One kept connection; reads answers with as little work as can be, so that the proxy is what is measured."""

    def __init__(self) -> None:
        self._transport: asyncio.Transport | None = None
        self._done: asyncio.Future[bytes] | None = None
        self._seen = b""
        self._left = -1
        self.first_at = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def ask(self, request: bytes) -> "asyncio.Future[bytes]":
        assert self._transport is not None
        self._seen, self._left, self.first_at = b"", -1, 0.0
        self._done = asyncio.get_running_loop().create_future()
        self._transport.write(request)
        return self._done

    def data_received(self, data: bytes) -> None:
        self._seen += data
        head = self._seen.find(b"\r\n\r\n")
        if head < 0 or self._done is None or self._done.done():
            return
        if not self.first_at and len(self._seen) > head + 4:
            self.first_at = time.perf_counter()
        if self._left < 0:
            named = self._seen[:head].lower().partition(b"content-length: ")[2]
            self._left = head + 4 + int(named.partition(b"\r\n")[0]) if named else 0
        if len(self._seen) >= self._left if self._left else self._seen.endswith(b"0\r\n\r\n"):
            self._done.set_result(self._seen)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._done is not None and not self._done.done():
            self._done.set_exception(exc or ConnectionResetError("the proxy closed the connection"))


@dataclass(frozen=True, slots=True)
class Run:
    """What one run saw of one variant."""

    p50_ms: float
    first_ms: float
    per_s: float
    cpu_ms: float
    """Of the proxy's own process, by call, at 16 at once."""


@dataclass(slots=True)
class Variant:
    """A way to the provider."""

    name: str
    port: int
    pid: int
    tokens: list[str]
    path: str = "/v1/messages"
    runs: dict[str, list[Run]] = field(default_factory=dict[str, list[Run]])

    def request(self, *, stream: bool, number: int = 0, hold: bool = False) -> bytes:
        asked: dict[str, object] = {
            "model": MODEL, "max_tokens": 1_000, "stream": stream, "messages": [{"role": "user", "content": PROMPT}],
        }  # fmt: skip
        if hold:
            asked["metadata"] = {"user_id": "hold"}
        body = json.dumps(asked, separators=(",", ":")).encode()
        token = self.tokens[number % len(self.tokens)]
        return (
            f"POST {self.path} HTTP/1.1\r\nHost: hub\r\nAuthorization: Bearer {token}\r\nx-api-key: {token}\r\n"
            f"anthropic-version: 2023-06-01\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        ).encode() + body


async def connected(variant: Variant) -> Answer:
    _, answer = await asyncio.get_running_loop().create_connection(Answer, "127.0.0.1", variant.port)
    return answer


async def call(answer: Answer, request: bytes) -> tuple[float, float]:
    """Return how long it took until the first byte of the body and until the last one, in seconds."""
    began = time.perf_counter()
    async with asyncio.timeout(ANSWER_S):
        said = await answer.ask(request)
    ended = time.perf_counter()
    assert said.startswith(b"HTTP/1.1 200"), said[:400]
    assert b"output_tokens" in said, said[:400]
    return answer.first_at - began, ended - began


async def measured(variant: Variant, seconds: float, *, stream: bool) -> Run:
    alone = await connected(variant)
    request = variant.request(stream=stream)
    spans: list[tuple[float, float]] = []
    end = time.perf_counter() + seconds / 2
    while time.perf_counter() < end or len(spans) < 5:
        spans.append(await call(alone, request))
    count = 0
    end = time.perf_counter() + seconds

    async def client(number: int) -> None:
        nonlocal count
        answer, asked = await connected(variant), variant.request(stream=stream, number=number)
        while time.perf_counter() < end:
            await call(answer, asked)
            count += 1

    began, used = time.perf_counter(), cpu_s(variant.pid)
    await asyncio.gather(*(client(number) for number in range(MACHINES)))
    took = time.perf_counter() - began
    return Run(
        statistics.median(whole for _, whole in spans) * 1e3,
        statistics.median(first for first, _ in spans) * 1e3,
        count / took,
        (cpu_s(variant.pid) - used) / count * 1e3,
    )


async def open_streams(variant: Variant, stub_port: int) -> tuple[float, float]:
    """Return the process's memory before and while `STREAMS_OPEN` streams are open through it, MiB."""
    before = rss_mib(variant.pid)
    answers = [await connected(variant) for _ in range(STREAMS_OPEN)]
    asked = [
        answer.ask(variant.request(stream=True, number=number, hold=True)) for number, answer in enumerate(answers)
    ]
    async with asyncio.timeout(ANSWER_S):
        while not all(answer.first_at for answer in answers):
            await asyncio.sleep(0.05)
    during = rss_mib(variant.pid)
    reader, writer = await asyncio.open_connection("127.0.0.1", stub_port)
    writer.write(b"GET /release HTTP/1.1\r\nHost: stub\r\n\r\n")
    await reader.readuntil(b"\r\n\r\n")
    writer.close()
    await asyncio.gather(*asked)
    return before, during


def rss_mib(pid: int) -> float:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


@asynccontextmanager
async def process(argv: list[str], port: int, **environment: str) -> AsyncGenerator[int]:
    """Run it until the block ends; it is there when its port listens."""
    with tempfile.TemporaryFile() as said:
        environ = {**os.environ, **environment}
        started = await asyncio.create_subprocess_exec(*argv, env=environ, stdout=said, stderr=said)
        try:
            async with asyncio.timeout(START_S):
                while not await _listens(port):
                    if started.returncode is not None:
                        said.seek(0)
                        raise RuntimeError(f"{argv}: {said.read()[-2_000:].decode(errors='replace')}")
                    await asyncio.sleep(0.05)
            yield started.pid
        finally:
            started.terminate()
            async with asyncio.timeout(START_S):
                await started.wait()


async def _listens(port: int) -> bool:
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError:
        return False
    writer.close()
    return True


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
async def stack(litellm: str | None) -> AsyncGenerator[tuple[list[Variant], int]]:
    """Everything that is measured, running."""
    async with AsyncExitStack() as exits:
        bus, nats_url, _ = await exits.enter_async_context(budget_running())
        parts = [sys.executable, "-m", "bench.gateway_parts"]
        ports = {name: free_port() for name in ("stub", "through", "memory", "durable", "litellm")}
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
        services = (("memory", [*parts, "memory", "0"]), ("durable", [sys.executable, "-m", "services.gateway"]))
        for name, argv in services:
            own = {**gateway, "AUTOVIBE_GATEWAY_PORT": str(ports[name]), "AUTOVIBE_HEALTH_PORT": str(free_port())}
            pid = await exits.enter_async_context(process(argv, ports[name], **own))
            variants.append(Variant(name, ports[name], pid, tokens))
        if litellm is not None:
            directory = Path(exits.enter_context(tempfile.TemporaryDirectory()))
            variants.append(await exits.enter_async_context(peer(litellm, directory, ports["litellm"], url)))
        yield variants, ports["stub"]


@asynccontextmanager
async def peer(python: str, directory: Path, port: int, url: str) -> AsyncGenerator[Variant]:
    """LiteLLM's proxy with one worker, its own Anthropic route, logging nothing."""
    config = directory / "litellm.yaml"
    model = {"model": f"anthropic/{MODEL}", "api_base": url, "api_key": "key"}
    settings = {"model_list": [{"model_name": MODEL, "litellm_params": model}]}
    config.write_text(json.dumps(settings))
    argv = [str(Path(python).parent / "litellm"), "--config", str(config), "--port", str(port), "--host", "127.0.0.1"]
    environment = {"LITELLM_LOG": "ERROR", "LITELLM_LOCAL_MODEL_COST_MAP": "True", "LITELLM_TELEMETRY": "False"}
    async with process([*argv, "--num_workers", "1"], port, **environment) as pid:
        yield Variant("LiteLLM", port, pid, ["sk-none"])


def report(variants: list[Variant], kind: str) -> dict[str, Run]:
    found = {each.name: _median(each.runs[kind]) for each in variants}
    print(
        f"\n{kind:14}{'p50 ms':>9}{'first ms':>10}{'calls/s':>9}{'CPU ms':>8}   (16 at once: calls/s, CPU of its process)"
    )
    for name, run in found.items():
        print(f"{name:14}{run.p50_ms:9.2f}{run.first_ms:10.2f}{run.per_s:9.0f}{run.cpu_ms:8.2f}")
    floor = found["pass-through"]
    for name in ("memory", "durable"):
        run = found[name]
        said = f"{name}: {run.p50_ms - found['direct'].p50_ms:+.2f} ms p50 and {run.cpu_ms - floor.cpu_ms:+.2f} ms CPU"
        said += f" beyond the pass-through, {run.per_s / floor.per_s:.2f} x its calls/s"
        said += f", {run.per_s / found['LiteLLM'].per_s:.0f} x LiteLLM's" if "LiteLLM" in found else ""
        print(said.replace("p50 and", "p50 beyond direct and"))
    return found


def _median(runs: list[Run]) -> Run:
    return Run(
        statistics.median(run.p50_ms for run in runs),
        statistics.median(run.first_ms for run in runs),
        statistics.median(run.per_s for run in runs),
        statistics.median(run.cpu_ms for run in runs),
    )


async def main(litellm: str | None, seconds: float, rounds: int) -> None:
    print(f"load {os.getloadavg()[0]:.1f}")
    async with stack(litellm) as (variants, stub_port):
        for each in variants:
            answer = await connected(each)
            for number in range(WARM_CALLS):
                await call(answer, each.request(stream=bool(number % 2)))
        for kind in ("whole", "stream"):
            for _ in range(rounds):
                for each in variants:
                    each.runs.setdefault(kind, []).append(await measured(each, seconds, stream=kind == "stream"))
            report(variants, kind)
        durable = next(each for each in variants if each.name == "durable")
        before, during = await open_streams(durable, stub_port)
        print(f"\n{STREAMS_OPEN} streams open: {during:.0f} MiB (before {before:.0f})")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--litellm", help="the interpreter of an environment that has litellm[proxy]")
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    uvloop.run(main(given.litellm, given.seconds, given.rounds))
