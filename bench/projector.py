"""Projection end to end: ours beside FastStream, the `eventsourcing` library and an ordinary fetch-and-executemany batch.

    python -m bench.projector [--events 100000] [--peer-events 3000] [--rounds 3] [--rebuild 0] [--lag-s 5]

All read the same log of mixed events, validate with the same models, and commit rows and position durably by the same
server. Ours does more: the hash chain and all read models; each peer keeps one row per event and one per machine.
`eventsourcing` reads a log of its own in PostgreSQL, of the same events (bench/projector_peer.py).
CPU is that of Python, PostgreSQL and nats-server together, from /proc.
"""

import argparse
import asyncio
import json
import os
import resource
import statistics
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import islice
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import psycopg
import uvloop
from faststream import AckPolicy
from faststream.message import StreamMessage
from faststream.nats import JStream, NatsBroker, NatsMessage, PullSub
from nats.js.api import AckPolicy as Ack
from nats.js.api import ConsumerConfig, DeliverPolicy

from bench import projector_peer
from cli.stack.nats import EmbeddedNats
from cli.stack.postgres import EmbeddedPostgres
from events import address, fresh
from events.envelope import Cause
from events.machine import MachineProgressed
from events.registry import parse
from schema.migrations import apply
from services.kit import topology
from services.kit.bus import Bus
from services.kit.log import Write
from services.kit.message import encode
from services.kit.settings import BusSettings
from services.projector.app import ProjectorSettings
from services.projector.projector import Projector
from services.projector.rebuild import rebuild
from services.projector.rows import Batch
from tests.harness import short_directory
from tests.projector.histories import Said
from tests.projector.stories import life, project

SLUG = "bench"
FILL = 1_000
PEER_TABLES = """
    CREATE TABLE peer_events (
        seq bigint PRIMARY KEY, id uuid, project text, aggregate text, aggregate_id text, type text,
        occurred_at timestamptz, actor text, body jsonb
    );
    CREATE INDEX ON peer_events (aggregate_id, seq);
    CREATE INDEX ON peer_events (type, seq);
    CREATE TABLE peer_machines (id text PRIMARY KEY, type text, events bigint, last_seq bigint);
    CREATE TABLE peer_position (name text PRIMARY KEY, seq bigint);
    INSERT INTO peer_position VALUES ('peer', 0)
"""
INSERT_EVENT = "INSERT INTO peer_events VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s)"
UPSERT_MACHINE = """
    INSERT INTO peer_machines AS m VALUES (%s, %s, %s, %s)
    ON CONFLICT (id) DO UPDATE SET type = excluded.type, events = m.events + excluded.events, last_seq = excluded.last_seq
"""


@dataclass(frozen=True, slots=True)
class Measured:
    events: int
    seconds: float
    cpu_s: float

    @property
    def rate(self) -> float:
        return self.events / self.seconds

    @property
    def cpu_us(self) -> float:
        return self.cpu_s / self.events * 1e6


class Stack:
    """The servers, and what they and we have used of the processor."""

    def __init__(self, nats: EmbeddedNats, postgres: EmbeddedPostgres, bus: Bus) -> None:
        self.nats = nats
        self.postgres = postgres
        self.bus = bus
        self.databases = 0

    async def database(self) -> str:
        self.databases += 1
        name = f"bench_{self.databases}"
        await self.postgres.create_database(name)
        dsn = self.postgres.dsn(name)
        apply(dsn)
        with psycopg.connect(dsn) as connection:
            connection.execute(PEER_TABLES.encode())
        return dsn

    async def measure(self, events: int, work: Callable[[], Awaitable[None]]) -> Measured:
        cpu, began = self._cpu_s(), time.perf_counter()
        await work()
        return Measured(events, time.perf_counter() - began, self._cpu_s() - cpu)

    def _cpu_s(self) -> float:
        own = resource.getrusage(resource.RUSAGE_SELF)
        return own.ru_utime + own.ru_stime + _tree_s(self.postgres.pid) + _tree_s(self.nats.pid)


def _tree_s(root: int) -> float:
    """Return what a process and all below it have used, those that ended included (bwrap's ids are the inner ones)."""
    children: dict[int, list[int]] = {}
    used: dict[int, float] = {}
    tick = os.sysconf("SC_CLK_TCK")
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            continue
        number = int(path.parent.name)
        children.setdefault(int(fields[1]), []).append(number)
        used[number] = sum(int(field) for field in fields[11:15]) / tick
    waiting, total = [root], 0.0
    while waiting:
        number = waiting.pop()
        total += used.get(number, 0.0)
        waiting += children.get(number, [])
    return total


@asynccontextmanager
async def stack() -> AsyncGenerator[Stack]:
    async with AsyncExitStack() as exits:
        nats = await exits.enter_async_context(EmbeddedNats(exits.enter_context(short_directory())))
        postgres = await exits.enter_async_context(EmbeddedPostgres(exits.enter_context(short_directory())))
        bus = await exits.enter_async_context(Bus.connect(BusSettings(nats_url=nats.url), name="bench"))
        await topology.apply(bus)
        yield Stack(nats, postgres, bus)


def mixed() -> Iterator[Said]:
    """A project and machines for ever."""
    yield from project(SLUG)
    number = 0
    while True:
        yield from life(SLUG, number)
        number += 1


async def fill(bus: Bus, count: int, source: Iterator[Said]) -> None:
    """Append events as atomic batches, without expectations: only the log's contents matter here."""
    at = datetime.now(UTC)
    for start in range(0, count, FILL):
        size = min(FILL, count - start)
        batch, inbox = uuid4().hex, bus.nc.new_inbox()
        answer = await bus.nc.subscribe(inbox)
        for number, said in enumerate(islice(source, size), 1):
            piece = encode(said.address, said.event, fresh.uuid7(), said.cause, at + timedelta(milliseconds=start))
            head = b"NATS/1.0\r\n%bNats-Batch-Id: %b\r\nNats-Batch-Sequence: %d\r\n" % (
                *(piece.headers, batch.encode(), number),
            )
            head += b"Nats-Batch-Commit: 1\r\n\r\n" if number == size else b"\r\n"
            reply = inbox.encode() if number in {1, size} else b""
            line = b"HPUB %b %b %d %d\r\n" % (piece.subject, reply, len(head), len(head) + len(piece.body))
            await bus.nc.send(line + head + piece.body + b"\r\n")
        for _ in range(2 if size > 1 else 1):
            acked = await answer.next_msg(timeout=30)
            assert b"error" not in acked.data, acked.data
        await answer.unsubscribe()


class Reached:
    """Waits until the projector has written a seq; remembers when each came."""

    def __init__(self, aim: int = 0) -> None:
        self.aim = aim
        self.done = asyncio.Event()
        self.at: dict[int, float] = {}
        self.batches = 0

    def on_written(self, batch: Batch) -> None:
        self.batches += 1
        now = time.perf_counter()
        if not self.aim:
            for seq in range(batch.after + 1, batch.upto + 1):
                self.at[seq] = now
        elif batch.upto >= self.aim:
            self.done.set()


async def ours(made: Stack, dsn: str, count: int) -> None:
    reached = Reached(count)
    projector = Projector(made.bus.log, ProjectorSettings(database_url=dsn), reached)
    task = asyncio.create_task(projector.run())
    await asyncio.wait({task, asyncio.create_task(reached.done.wait())}, return_when=asyncio.FIRST_COMPLETED)
    task.cancel()
    await asyncio.wait({task})
    assert projector.state.position >= count, projector.state


async def faststream(made: Stack, dsn: str, count: int) -> None:
    """A handler in the documented manner: one message, two statements, one commit, one ack."""
    name = f"peer-{uuid4().hex}"
    broker = NatsBroker(made.nats.url, logger=None, apply_types=False)
    done = asyncio.Event()
    connection = await psycopg.AsyncConnection.connect(dsn)
    subscriber = broker.subscriber(
        subject="av.>",
        stream=JStream("LOG", declare=False),
        durable=name,
        pull_sub=PullSub(batch_size=1, timeout=1.0),
        ack_policy=AckPolicy.NACK_ON_ERROR,
        config=ConsumerConfig(max_ack_pending=1),
        decoder=_undecoded,
    )

    @subscriber
    async def handle(message: NatsMessage) -> None:
        raw = message.raw_message
        seq = raw.metadata.sequence.stream
        _, slug, aggregate, id_, type_name = raw.subject.split(".")
        parse(type_name, raw.data)
        async with connection.transaction():
            row = _row(seq, (slug, aggregate, id_, type_name), raw.headers or {}, raw.data)
            await connection.execute(INSERT_EVENT.encode(), row)
            await connection.execute(UPSERT_MACHINE.encode(), (id_, type_name, 1, seq))
        if seq >= count:
            done.set()

    async with broker:
        await broker.start()
        async with asyncio.timeout(60):
            await done.wait()
    await connection.close()
    await made.bus.js.delete_consumer("LOG", name)


async def _undecoded(message: StreamMessage[Any]) -> StreamMessage[Any]:
    return message


async def fetching(made: Stack, dsn: str, count: int) -> None:
    """The ordinary good batch: fetch(500), validate, group, executemany, position, commit, ack each."""
    name = f"peer-{uuid4().hex}"
    config = ConsumerConfig(name=name, durable_name=name, ack_policy=Ack.EXPLICIT, deliver_policy=DeliverPolicy.ALL)
    await made.bus.js.add_consumer("LOG", config)
    pull = await made.bus.js.pull_subscribe_bind(name, stream="LOG")
    seq = 0
    async with await psycopg.AsyncConnection.connect(dsn) as connection:
        while seq < count:
            messages = await pull.fetch(500, timeout=5)
            rows: list[tuple[object, ...]] = []
            machines: dict[str, tuple[str, str, int, int]] = {}
            for message in messages:
                seq = message.metadata.sequence.stream
                _, slug, aggregate, id_, type_name = message.subject.split(".")
                parse(type_name, message.data)
                rows.append(_row(seq, (slug, aggregate, id_, type_name), message.headers or {}, message.data))
                machines[id_] = (id_, type_name, machines.get(id_, ("", "", 0, 0))[2] + 1, seq)
            async with connection.transaction(), connection.cursor() as cursor:
                await cursor.executemany(INSERT_EVENT.encode(), rows)
                await cursor.executemany(UPSERT_MACHINE.encode(), list(machines.values()))
                await cursor.execute("UPDATE peer_position SET seq = %s", (seq,))
            for message in messages:
                await message.ack()
    await pull.unsubscribe()
    await made.bus.js.delete_consumer("LOG", name)


async def eventsourcing(_made: Stack, dsn: str, count: int) -> None:
    """Projects the library's own log, which `projector_peer.fill` made."""
    await asyncio.to_thread(projector_peer.project(dsn, INSERT_EVENT, UPSERT_MACHINE))
    assert projector_peer.rows_of(dsn) == count


def _row(seq: int, tokens: tuple[str, ...], headers: dict[str, str], data: bytes) -> tuple[object, ...]:
    occurred = datetime.fromisoformat(headers["ce-time"])
    return (seq, UUID(headers["ce-id"]), *tokens, occurred, headers["ce-actor"], data.decode())


async def replay(made: Stack, arguments: argparse.Namespace) -> dict[str, list[Measured]]:
    found: dict[str, list[Measured]] = {"ours": [], "fetch(500)+executemany": [], "faststream": [], "eventsourcing": []}
    for _ in range(arguments.rounds):
        for name, work, count in (
            ("ours", ours, arguments.events),
            ("fetch(500)+executemany", fetching, arguments.peer_events * 5),
            ("faststream", faststream, arguments.peer_events),
            ("eventsourcing", eventsourcing, arguments.peer_events),
        ):
            dsn = await made.database()
            if work is eventsourcing:
                await asyncio.to_thread(projector_peer.fill, dsn, count, mixed())
            measured = await made.measure(count, lambda work=work, dsn=dsn, count=count: work(made, dsn, count))
            found[name].append(measured)
            print(f"  {name:24} {measured.rate:10,.0f} events/s {measured.cpu_us:8.1f} µs CPU/event", flush=True)
    return found


async def lag(made: Stack, seconds: float, rate: int = 1_000) -> tuple[list[float], list[float]]:
    """Return ms from acknowledged publish to committed row, and of (PubAck + one upsert's commit), taken in turns."""
    dsn = await made.database()
    await ours(made, dsn, (await made.bus.log.extent()).last_seq)
    reached = Reached()
    projector = Projector(made.bus.log, ProjectorSettings(database_url=dsn), reached)
    task = asyncio.create_task(projector.run())
    while projector.state.word != "running":
        await asyncio.sleep(0.05)
    sent: dict[int, float] = {}
    pairs: list[float] = []
    machine = address.machine(SLUG, fresh.uuid7())
    connection = await psycopg.AsyncConnection.connect(dsn, autocommit=True)
    end = time.perf_counter() + seconds
    due = time.perf_counter()
    seq = 0
    while time.perf_counter() < end:
        began = time.perf_counter()
        event = MachineProgressed(epoch=1, message="step")
        seq = (await made.bus.log.append(Write(machine, seq, (event,)), cause=Cause("bench"))).seq
        sent[seq] = began
        due += 1 / rate
        await asyncio.sleep(max(0.0, due - time.perf_counter()))
    await asyncio.sleep(0.5)
    task.cancel()
    await asyncio.wait({task})
    await made.bus.js.add_stream(name="BARE", subjects=["bare.>"])
    for number in range(300):
        began = time.perf_counter()
        await made.bus.js.publish(f"bare.{number}", b"{}")
        await connection.execute(UPSERT_MACHINE.encode(), ("m", "x", 1, number))
        pairs.append((time.perf_counter() - began) * 1000)
    await connection.close()
    print(f"  {len(sent) / seconds:,.0f} events/s sent, {reached.batches} batches")
    return sorted((reached.at[seq] - at) * 1000 for seq, at in sent.items() if seq in reached.at), sorted(pairs)


async def main(arguments: argparse.Namespace) -> None:
    async with stack() as made:
        print(f"filling the log with {arguments.events:,} mixed events")
        source = mixed()
        began = time.perf_counter()
        await fill(made.bus, arguments.events, source)
        print(f"  {arguments.events / (time.perf_counter() - began):,.0f} events/s")
        found = await replay(made, arguments)
        best = {name: statistics.median(one.rate for one in many) for name, many in found.items()}
        cpu = {name: statistics.median(one.cpu_us for one in many) for name, many in found.items()}
        for name in list(best)[1:]:
            print(f"ours / {name}: {best['ours'] / best[name]:.1f} x, CPU 1/{cpu[name] / cpu['ours']:.1f}")
        if arguments.lag_s:
            ours_ms, peer_ms = await lag(made, arguments.lag_s)
            report = {
                "lag p50": statistics.median(ours_ms),
                "lag p99": ours_ms[int(len(ours_ms) * 0.99)],
                "puback+commit p50": statistics.median(peer_ms),
                "puback+commit p99": peer_ms[int(len(peer_ms) * 0.99)],
            }
            print(json.dumps({name: round(value, 2) for name, value in report.items()}))
        if arguments.rebuild:
            await rebuilt(made, arguments.rebuild, source)


async def rebuilt(made: Stack, count: int, source: Iterator[Said]) -> None:
    there = (await made.bus.log.extent()).last_seq
    await fill(made.bus, max(0, count - there), source)
    dsn = await made.database()
    await ours(made, dsn, count)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    began = time.perf_counter()
    report = await rebuild(made.bus.log, dsn)
    seconds = time.perf_counter() - began
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    print(
        f"rebuild of {report.position:,} events: {seconds:.1f} s, identical: {report.ok}, memory grew by {grown:.0f} MiB"
    )


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--events", type=int, default=100_000)
    parser.add_argument("--peer-events", type=int, default=3_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--rebuild", type=int, default=0, help="also rebuild a log of this many events")
    parser.add_argument("--lag-s", type=float, default=5.0)
    return parser.parse_args()


if __name__ == "__main__":
    uvloop.run(main(_arguments()))
