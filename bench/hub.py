"""The whole hub from outside: the door, a machine's first line, fifty machines at once.

    python -m bench.hub

Floor and subject take turns in one run, so that a busy machine slows both. Times are seen by a client on the same host.
"""

import asyncio
import json
import statistics
import tempfile
import time
import uuid
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import nats
from nats.aio.client import Client
from nats.aio.msg import Msg

from tests.harness.hub import RunningHub, running_hub

FILES = 1_000
DOOR_ROUNDS = 200
STARTS = 20
AT_ONCE = 50
END_S = 180


def median_ms(seconds: list[float]) -> float:
    return statistics.median(seconds) * 1000


def p99_ms(seconds: list[float]) -> float:
    return sorted(seconds)[int(len(seconds) * 0.99)] * 1000


async def main() -> None:
    async with running_hub() as hub, connected(hub) as (operator, inside):
        with tempfile.TemporaryDirectory() as source:
            make_tree(Path(source))
            await hub.ok("project", "create", "bench", "--from", source)
        await door(operator, inside)
        await first_line(operator)
        await fifty(operator)


@asynccontextmanager
async def connected(hub: RunningHub) -> AsyncGenerator[tuple[Client, Client]]:
    """A client as a user has it, and one inside the hub for the floor."""
    operator = await nats.connect(hub.context.nats_url, user_credentials=hub.context.creds)
    inside = await nats.connect(hub.context.nats_url, user_credentials=hub.context.hub_creds, inbox_prefix="_INBOX_hub")
    try:
        yield operator, inside
    finally:
        await operator.close()
        await inside.close()


def make_tree(root: Path) -> None:
    for number in range(FILES):
        directory = root / f"package{number % 40}" / f"part{number % 7}"
        directory.mkdir(parents=True, exist_ok=True)
        (directory / f"module{number}.py").write_text(f"VALUE = {number}\n" * (1 + number % 90))


async def timed(action: Callable[[], Awaitable[object]]) -> float:
    started = time.perf_counter()
    await action()
    return time.perf_counter() - started


async def door(operator: Client, inside: Client) -> None:
    """Asked and acknowledged in the log, against a bare publish that is as durable."""
    stream = inside.jetstream()
    await stream.add_stream(name="FLOOR", subjects=["floor.>"])
    floor: list[float] = []
    asked: list[float] = []
    for number in range(DOOR_ROUNDS):
        body = json.dumps({"description": f"round {number}"}).encode()

        async def ask(body: bytes = body) -> None:
            reply = await operator.request("ask.bench.project.bench.ProjectUpdated", body, timeout=10)
            assert json.loads(reply.data)["seq"], reply.headers

        floor.append(await timed(lambda body=body: stream.publish("floor.x", body)))
        asked.append(await timed(ask))
    await stream.delete_stream("FLOOR")
    above = median_ms(asked) - median_ms(floor)
    print(f"bare durable publish     p50 {median_ms(floor):7.2f} ms  p99 {p99_ms(floor):7.2f} ms")
    print(
        f"door, acknowledged       p50 {median_ms(asked):7.2f} ms  p99 {p99_ms(asked):7.2f} ms  p50 above {above:.2f} ms"
    )


async def first_line(operator: Client) -> None:
    """From the request to the first line that the goal printed, one machine after the other."""
    spans: list[float] = []
    for _ in range(STARTS):
        machine = str(uuid.uuid4())
        seen: asyncio.Future[float] = asyncio.get_running_loop().create_future()

        async def on_output(message: Msg, seen: "asyncio.Future[float]" = seen) -> None:
            if b"here" in message.data and not seen.done():
                seen.set_result(time.perf_counter())

        ended = await watch_end(operator, machine)
        subscription = await operator.subscribe(f"live.bench.{machine}.>", cb=on_output)
        await operator.flush()
        started = time.perf_counter()
        await request(operator, machine, "echo here")
        spans.append(await asyncio.wait_for(seen, END_S) - started)
        await asyncio.wait_for(ended, END_S)
        await subscription.unsubscribe()
    print(f"request to first line    p50 {median_ms(spans):7.1f} ms  max {max(spans) * 1000:7.1f} ms  ({FILES} files)")


async def fifty(operator: Client) -> None:
    """All at once; every one must succeed."""
    machines = [str(uuid.uuid4()) for _ in range(AT_ONCE)]
    ends = [await watch_end(operator, machine) for machine in machines]
    started = time.perf_counter()
    for machine in machines:
        await request(operator, machine, "echo here; sleep 1; echo there > made")
    outcomes = await asyncio.wait_for(asyncio.gather(*ends), END_S)
    assert outcomes == ["succeeded"] * AT_ONCE, outcomes
    print(f"{AT_ONCE} machines at once      all succeeded in {time.perf_counter() - started:.1f} s")


async def watch_end(operator: Client, machine: str) -> "asyncio.Future[str]":
    ended: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    async def on_end(message: Msg) -> None:
        if not ended.done():
            ended.set_result(json.loads(message.data)["outcome"])

    await operator.subscribe(f"av.bench.machine.{machine}.MachineEnded", cb=on_end)
    await operator.flush()
    return ended


async def request(operator: Client, machine: str, goal: str) -> None:
    body = json.dumps({"goal": goal, "machine_type": "shell"}).encode()
    reply = await operator.request(f"ask.bench.machine.{machine}.MachineRequested", body, timeout=10)
    assert json.loads(reply.data).get("seq"), (reply.headers, reply.data)


if __name__ == "__main__":
    asyncio.run(main())
