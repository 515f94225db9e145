"""A 50-row page of machines: ours beside a FastAPI endpoint with `response_model` on the same table, interleaved.

    .venv/bin/python -m bench.query [--seconds 2] [--rounds 4] [--rows 100000]

Prints requests/s, CPU per request of the serving process (getrusage by /proc) and of PostgreSQL, and latencies; then
ours at 200 requests/s while another process rewrites rows and moves the position as a busy projector does. `kept` asks
for an unchanged page (answers are kept until the read model moves); `read` has that turned off. Needs `wrk`.
"""

import argparse
import asyncio
import os
import re
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import psycopg

from cli.stack.nats import EmbeddedNats
from cli.stack.postgres import EmbeddedPostgres
from schema.migrations import apply
from tests.harness import free_port, short_directory

KEY = "bench-key"
TICK_S = 1 / os.sysconf("SC_CLK_TCK")
CONNECTIONS = 8
ROWS = """
    INSERT INTO intelligent_machines
           (uuid, project_uuid, machine_type, status, phase, outcome, epoch, checkpoint_count, original_prompt,
            file_modifications, resource_constraints, resource_usage, holds, metadata, spawned_at, updated_at,
            terminated_at, last_seq)
    SELECT gen_random_uuid(), %(project)s, 'shell', 'terminated', 'ended', 'succeeded', 1, 2, 'make test number ' || n,
           '{"added": 1, "changed": 2, "removed": 0}', '{"cpu_milli": 1000, "memory_mib": 512}', '{"minutes": "1.5"}',
           '[]', '{"team": "a"}', now() - n * interval '1 second', now(), now(), n
      FROM generate_series(1, %(rows)s) AS n
"""


@dataclass(frozen=True, slots=True)
class Run:
    """What one run of the load generator saw."""

    per_s: float
    server_us: float
    postgres_us: float
    p50_ms: float
    p99_ms: float


def cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) * TICK_S


def family_cpu_s(pid: int) -> float:
    """The CPU of a process and of its children, those that ended included."""
    total = 0.0
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[1]) == pid or stat.parent.name == str(pid):
            total += (int(fields[11]) + int(fields[12])) * TICK_S
        if stat.parent.name == str(pid):
            total += (int(fields[13]) + int(fields[14])) * TICK_S
    return total


def wrk(url: str, seconds: int, server: int, postgres: int) -> Run:
    before, before_pg = cpu_s(server), family_cpu_s(postgres)
    argv = ["wrk", "-t1", f"-c{CONNECTIONS}", f"-d{seconds}s", "--latency", "-H", f"Authorization: Bearer {KEY}", url]
    said = subprocess.run(argv, check=True, capture_output=True, text=True).stdout
    used, used_pg = cpu_s(server) - before, family_cpu_s(postgres) - before_pg
    assert "Non-2xx" not in said, said
    assert "Socket errors" not in said, said
    requests = int(_found(r"(\d+) requests in", said))
    return Run(
        float(_found(r"Requests/sec:\s+([\d.]+)", said)),
        used / requests * 1e6,
        used_pg / requests * 1e6,
        _ms(_found(r"50%\s+(\S+)", said)),
        _ms(_found(r"99%\s+(\S+)", said)),
    )


def _found(pattern: str, text: str) -> str:
    match = re.search(pattern, text)
    assert match is not None, text
    return match[1]


def _ms(text: str) -> float:
    number = float(re.sub(r"[a-z]+$", "", text))
    return number / 1000 if text.endswith("us") else number if text.endswith("ms") else number * 1000


def started(arguments: list[str], environment: dict[str, str]) -> "subprocess.Popen[bytes]":
    return subprocess.Popen([sys.executable, *arguments], env={**os.environ, **environment}, stdout=subprocess.DEVNULL)


@asynccontextmanager
async def server(code: str, *arguments: str, port: int, environment: dict[str, str]) -> AsyncGenerator[int]:
    process = started(code.split() + list(arguments), environment)
    try:
        await _listens(port)
        yield process.pid
    finally:
        process.terminate()
        process.wait(20)


async def _listens(port: int) -> None:
    async with asyncio.timeout(30):
        while True:
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", port)
            except OSError:
                await asyncio.sleep(0.02)
            else:
                writer.close()
                return


async def paced(port: int, path: str, per_s: int, seconds: float) -> list[float]:
    """Send at a fixed pace whatever the answers do; latencies count from when each should have been sent."""
    latencies: list[float] = []
    free: asyncio.Queue[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = asyncio.Queue()
    for _ in range(32):
        free.put_nowait(await asyncio.open_connection("127.0.0.1", port))
    request = f"GET {path} HTTP/1.1\r\nHost: hub\r\nAuthorization: Bearer {KEY}\r\n\r\n".encode()

    async def one(due: float) -> None:
        reader, writer = await free.get()
        writer.write(request)
        head = await reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200"), head
        await reader.readexactly(int(_found(r"(?i)content-length: (\d+)", head.decode())))
        latencies.append((time.perf_counter() - due) * 1000)
        free.put_nowait((reader, writer))

    start = time.perf_counter()
    async with asyncio.TaskGroup() as tasks:
        for number in range(int(per_s * seconds)):
            due = start + number / per_s
            await asyncio.sleep(max(0, due - time.perf_counter()))
            tasks.create_task(one(due))
    while not free.empty():
        free.get_nowait()[1].close()
    return sorted(latencies)


async def prepared(postgres: EmbeddedPostgres, nats: EmbeddedNats, rows: int) -> str:
    from services.kit import topology  # noqa: PLC0415
    from services.kit.bus import Bus  # noqa: PLC0415
    from services.kit.settings import BusSettings  # noqa: PLC0415
    from tests.query.world import World  # noqa: PLC0415

    await postgres.create_database("bench")
    dsn = postgres.dsn("bench")
    applied = apply(dsn)
    if asyncio.iscoroutine(applied):
        await applied
    async with Bus.connect(BusSettings(nats_url=nats.url), name="bench") as bus:
        await topology.apply(bus)
        from events.words import Role  # noqa: PLC0415

        await World.key(World(bus, None, dsn), KEY, Role.ADMIN)  # type: ignore[arg-type]  # only its log is used
    from events.ids import project_uuid  # noqa: PLC0415

    async with await psycopg.AsyncConnection.connect(dsn, autocommit=True) as connection:
        await connection.execute(
            "INSERT INTO projects (uuid, name, description, greediness, status, checkpoint_policy, metadata, created_at,"
            " updated_at, last_seq) VALUES (%s, 'webshop', '', 0.5, 'active', '{}', '{}', now(), now(), 1)",
            (project_uuid("webshop"),),
        )
        await connection.execute(ROWS, {"project": project_uuid("webshop"), "rows": rows})
        await connection.execute("VACUUM ANALYZE intelligent_machines")
    return dsn


def table(name: str, runs: list[Run]) -> None:
    def middle(of: Callable[[Run], float]) -> float:
        return statistics.median(map(of, runs))

    print(
        f"{name:<8}{middle(lambda r: r.per_s):>10.0f} req/s{middle(lambda r: r.server_us):>8.0f} us server"
        f"{middle(lambda r: r.postgres_us):>8.0f} us postgres   p50 {middle(lambda r: r.p50_ms):.2f} ms"
        f"   p99 {middle(lambda r: r.p99_ms):.2f} ms"
    )


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--rows", type=int, default=100_000)
    chosen = parser.parse_args()
    assert shutil.which("wrk"), "wrk is needed: apt-get install wrk"
    async with AsyncExitStack() as exits:
        directory = exits.enter_context(short_directory())
        nats = await exits.enter_async_context(EmbeddedNats(directory / "n"))
        postgres = await exits.enter_async_context(EmbeddedPostgres(directory / "p"))
        dsn = await prepared(postgres, nats, chosen.rows)
        pids: dict[str, int] = {}
        urls: dict[str, str] = {}
        for name in ("read", "kept", "fastapi"):
            port = free_port()
            environment = {
                "DATABASE_URL": dsn, "NATS_URL": nats.url, "AUTOVIBE_QUERY_PORT": str(port), "AUTOVIBE_HEALTH_PORT": "0",
                "AUTOVIBE_QUERY_KEPT_ANSWERS_MAX": "0" if name == "read" else "1000", "AUTOVIBE_LOG_LEVEL": "warning",
            }  # fmt: skip
            code = "-m bench.query_peer" if name == "fastapi" else "-m services.query"
            pids[name] = await exits.enter_async_context(server(code, port=port, environment=environment))
            urls[name] = f"http://127.0.0.1:{port}/api/v1/machines?limit=50"
        await measured(chosen.rounds, chosen.seconds, pids, urls, postgres.pid)
        for name in ("kept", "fastapi"):
            await busy(name, dsn, directory, urls[name], chosen.seconds)


async def measured(rounds: int, seconds: int, pids: dict[str, int], urls: dict[str, str], postgres: int) -> None:
    runs: dict[str, list[Run]] = {name: [] for name in urls}
    for name, url in urls.items():
        await asyncio.to_thread(wrk, url, 1, pids[name], postgres)
    for _ in range(rounds):
        for name, url in urls.items():
            runs[name].append(await asyncio.to_thread(wrk, url, seconds, pids[name], postgres))
    for name, found in runs.items():
        table(name, found)
    for name in ("read", "kept"):
        ratios = [ours.per_s / peer.per_s for ours, peer in zip(runs[name], runs["fastapi"], strict=True)]
        cpu = [ours.server_us / peer.server_us for ours, peer in zip(runs[name], runs["fastapi"], strict=True)]
        print(f"{name} / fastapi: {statistics.median(ratios):.2f}x requests/s at {statistics.median(cpu):.2f}x CPU")


async def busy(name: str, dsn: str, directory: Path, url: str, seconds: float) -> None:
    """Rewrite 20 rows and move the position 100 times a second, and ask 200 times a second."""
    script = directory / "projector.py"
    script.write_text(PROJECTOR)
    writer = started([str(script), dsn], {})
    try:
        port, path = int(_found(r":(\d+)/", url)), url.partition("/api")[1] + url.partition("/api")[2]
        latencies = await paced(port, path, 200, max(5.0, seconds))
    finally:
        writer.kill()
        writer.wait()
    share = [latencies[int(len(latencies) * part)] for part in (0.5, 0.99)]
    print(
        f"{name:<8} 200 req/s, projector busy: p50 {share[0]:.1f} ms, p99 {share[1]:.1f} ms, {len(latencies)} requests"
    )


PROJECTOR = """
import sys, time
import psycopg
connection = psycopg.connect(sys.argv[1], autocommit=True)
connection.execute("SET synchronous_commit = off")
seq = 0
while True:
    seq += 20
    with connection.transaction():
        connection.execute(
            "UPDATE intelligent_machines SET last_seq = %s, updated_at = now() WHERE uuid IN "
            "(SELECT uuid FROM intelligent_machines ORDER BY spawned_at DESC LIMIT 20)", (seq,))
        connection.execute("UPDATE projection SET position = %s WHERE name = 'live'", (seq,))
        connection.execute("SELECT pg_notify('autovibe_position', %s)", (str(seq),))
    time.sleep(0.01)
"""

if __name__ == "__main__":
    asyncio.run(main())
