"""Reserve and settle, durable: pairs per second of the budget as the gateway asks it, beside the log's own floor.

    python -m bench.ledger [--clients 16] [--seconds 3] [--rounds 3]

The budget and nats-server run in processes of their own; each client is another machine and asks for the next call when
the last is settled. The floor is what cannot be had cheaper: two appends to the log, one after the other, by as many clients.
"""

import argparse
import asyncio
import os
import statistics
import time
from collections.abc import Awaitable, Callable
from uuid import UUID

import uvloop

from bench.gateway import MODEL, SHOP, a_machine, budget_running
from bench.query import cpu_s
from events import address as at
from events.call import Tokens
from events.envelope import Cause
from events.fresh import now, uuid7
from events.ledger import Granted, Reserve, Settle
from events.machine import MachineProgressed
from services.kit.bus import Bus
from services.kit.ledger import LedgerClient
from services.kit.log import Write

CAUSE = Cause("bench")
UNHEARD = MachineProgressed(epoch=1, message="x" * 500)
"""As large as what is said of a call, and nobody listens to it."""


async def pair(ledger: LedgerClient, machine_id: UUID) -> None:
    call = {"call_id": uuid7(), "project": SHOP, "machine_id": machine_id, "epoch": 1}
    ask = Reserve.model_validate(
        {**call, "provider": "bench", "model": MODEL, "input_tokens_max": 10_000, "output_tokens_max": 1_000}
    )
    granted = await ledger.reserve(ask)
    assert isinstance(granted, Granted), granted
    moment = now()
    tokens = Tokens(input=9_000, output=120)
    await ledger.settle(Settle.model_validate({**call, "tokens": tokens, "began_at": moment, "ended_at": moment}))


async def two_appends(bus: Bus, where: at.Address, seq: int) -> int:
    for _ in range(2):
        seq = (await bus.log.append(Write(where, seq, (UNHEARD,)), cause=CAUSE)).seq
    return seq


async def rate(clients: int, seconds: float, work: Callable[[int], Awaitable[None]]) -> tuple[float, float]:
    """Return how many times it was done in a second, and the median of how long each took, ms."""
    spans: list[float] = []
    end = time.perf_counter() + seconds

    async def client(number: int) -> None:
        while (began := time.perf_counter()) < end:
            await work(number)
            spans.append(time.perf_counter() - began)

    began = time.perf_counter()
    await asyncio.gather(*(client(number) for number in range(clients)))
    return len(spans) / (time.perf_counter() - began), statistics.median(spans) * 1e3


async def main(clients: int, seconds: float, rounds: int) -> None:
    print(f"load {os.getloadavg()[0]:.1f}")
    async with budget_running() as (bus, _, budget_pid):
        machines = [(await a_machine(bus, number))[0] for number in range(clients)]
        ledger = LedgerClient(bus.wire, timeout_s=30)
        wheres = [at.machine("floor", uuid7()) for _ in range(clients)]
        seqs = [0] * clients

        async def appends(number: int) -> None:
            seqs[number] = await two_appends(bus, wheres[number], seqs[number])

        async def pairs(number: int) -> None:
            await pair(ledger, machines[number])

        await rate(clients, 1.0, pairs)
        found: dict[str, list[tuple[float, float]]] = {"two appends": [], "reserve + settle": []}
        cpu_ms: list[float] = []
        for _ in range(rounds):
            found["two appends"].append(await rate(clients, seconds, appends))
            used = cpu_s(budget_pid)
            found["reserve + settle"].append(await rate(clients, seconds, pairs))
            cpu_ms.append((cpu_s(budget_pid) - used) * 1e3 / (found["reserve + settle"][-1][0] * seconds))
        for name, runs in found.items():
            per_s, p50 = (statistics.median(run[column] for run in runs) for column in (0, 1))
            print(f"{name:18}{per_s:8.0f} /s   p50 {p50:6.2f} ms")
        print(f"CPU of the budget {statistics.median(cpu_ms):.2f} ms a pair; {clients} clients")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    uvloop.run(main(given.clients, given.seconds, given.rounds))
