"""Durable append through `services.kit` against what nats-py offers, interleaved on one server that syncs always.

    python -m bench.append [--seconds 2] [--rounds 3]

Every figure counts events that were acknowledged after fsync; medians of the rounds, and ratios to the peers.
"""

import argparse
import asyncio
import gc
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import uvloop
from nats.js import JetStreamContext
from nats.js.api import PubAck

from cli.stack.nats import EmbeddedNats
from events import address, fresh
from events.envelope import Cause, Envelope, to_headers
from events.project import ProjectUpdated
from services.kit import topology
from services.kit.bus import Bus, BusSettings
from services.kit.log import Write

BODY = ProjectUpdated(description="x" * 250)
CAUSE = Cause("client:bench")
WINDOW = 500
WRITERS = 2_000


def event(number: int, run: str) -> tuple[str, bytes, dict[str, str]]:
    """The same event as the kit appends: subject, body, envelope and expectation."""
    where = address.project(f"{run}-{number}")
    envelope = Envelope(where, BODY.type(), BODY.version, CAUSE, fresh.uuid7(), fresh.now())
    expectation = {
        "Nats-Expected-Last-Subject-Sequence": "0",
        "Nats-Expected-Last-Subject-Sequence-Subject": where.filter(),
    }
    return where.subject(BODY.type()), BODY.body(), {**to_headers(envelope), **expectation}


async def one_by_one(bus: Bus, end: float) -> int:
    """A bare durable publish of the same event, awaited, then the next."""
    count = 0
    run = fresh.uuid7().hex
    while time.perf_counter() < end:
        subject, body, headers = event(count, run)
        await bus.js.publish(subject, body, headers=headers)
        count += 1
    return count


async def publish_async(bus: Bus, end: float) -> int:
    """nats-py's own window of unacknowledged publishes."""
    js: JetStreamContext = bus.nc.jetstream(publish_async_max_pending=WINDOW, timeout=30)
    count = 0
    run = fresh.uuid7().hex
    futures: list[asyncio.Future[PubAck]] = []
    while time.perf_counter() < end:
        subject, body, headers = event(count, run)
        futures.append(await js.publish_async(subject, body, headers=headers))
        count += 1
        if len(futures) >= WINDOW:
            await futures[len(futures) - WINDOW]
    await asyncio.gather(*futures)
    return count


async def kit(bus: Bus, end: float) -> int:
    """Independent writers, each with its own aggregate: load nothing, append one event, then the next."""
    counts = [0]

    async def writer(number: int, run: str) -> None:
        where = address.project(f"{run}-{number}")
        seq = 0
        while time.perf_counter() < end:
            seq = (await bus.log.append(Write(where, seq, (BODY,)), cause=CAUSE)).seq
            counts[0] += 1

    run = fresh.uuid7().hex[:20]
    await asyncio.gather(*(writer(number, run) for number in range(WRITERS)))
    return counts[0]


async def kit_alone(bus: Bus, end: float) -> int:
    """One writer, one event at a time."""
    where = address.project(fresh.uuid7().hex)
    count = seq = 0
    while time.perf_counter() < end:
        seq = (await bus.log.append(Write(where, seq, (BODY,)), cause=CAUSE)).seq
        count += 1
    return count


PEERS: dict[str, Callable[[Bus, float], Awaitable[int]]] = {
    "one-by-one": one_by_one,
    "publish_async 500": publish_async,
    "kit alone": kit_alone,
    f"kit {WRITERS} writers": kit,
}


async def main(seconds: float, rounds: int) -> int:
    rates: dict[str, list[float]] = {name: [] for name in PEERS}
    cpu: dict[str, list[float]] = {name: [] for name in PEERS}
    with tempfile.TemporaryDirectory() as directory:
        async with (
            EmbeddedNats(Path(directory)) as server,
            Bus.connect(BusSettings(nats_url=server.url, nats_inbox_prefix="_INBOX"), name="bench") as bus,
        ):
            await topology.apply(bus)
            for _ in range(rounds):
                for name, run in PEERS.items():
                    gc.collect()
                    before, started = resource.getrusage(resource.RUSAGE_SELF), time.perf_counter()
                    count = await run(bus, started + seconds)
                    took = time.perf_counter() - started
                    after = resource.getrusage(resource.RUSAGE_SELF)
                    rates[name].append(count / took)
                    used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
                    cpu[name].append(used / count * 1e6)
    median = {name: statistics.median(values) for name, values in rates.items()}
    for name, rate in median.items():
        spread = f"[{min(rates[name]):,.0f} - {max(rates[name]):,.0f}]"
        print(f"{name:24} {rate:10,.0f} events/s {spread:22} {statistics.median(cpu[name]):7.1f} µs CPU per event")
    ours = median[f"kit {WRITERS} writers"]
    goals = {
        "kit / publish_async 500": (ours / median["publish_async 500"], 8.0),
        "kit / one-by-one": (ours / median["one-by-one"], 20.0),
        "kit alone / one-by-one": (median["kit alone"] / median["one-by-one"], 0.5),
    }
    for name, (ratio, goal) in goals.items():
        print(f"{name:24} {ratio:6.2f}  goal {goal:5.2f}  {'reached' if ratio >= goal else 'MISSED'}")
    return 0 if all(ratio >= goal for ratio, goal in goals.values()) else 1


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        sys.exit(runner.run(main(arguments.seconds, arguments.rounds)))
