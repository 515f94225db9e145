"""The one way out of a sandbox leads to the gateway and nowhere else."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field

import pytest

from agent.wayout import NoWayOut, address_of
from events.agent import MachineSpec
from tests.agent.stack import Stack
from tests.harness.waiting import eventually

pytestmark = pytest.mark.asyncio(loop_scope="module")

ASK = r"""
ask() { exec 3<>/dev/tcp/127.0.0.1/8080 && printf '%s\n' "$1" >&3 && IFS= read -r line <&3 && echo "got $line"; }
"""


@dataclass
class Upstream:
    """A line is answered with itself, backwards."""

    port: int = 0
    heard: list[bytes] = field(default_factory=list[bytes])
    open: int = 0
    most: int = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.open += 1
        self.most = max(self.most, self.open)
        try:
            while line := await reader.readline():
                self.heard.append(line)
                if line.startswith(b"give "):
                    writer.write(b"x" * int(line.split()[1]))
                else:
                    writer.write(line.strip()[::-1] + b"\n")
                await writer.drain()
        except ConnectionError:
            pass
        finally:
            self.open -= 1
            writer.close()


@contextlib.asynccontextmanager
async def upstream() -> AsyncGenerator[Upstream]:
    made = Upstream()
    server = await asyncio.start_server(made.serve, "127.0.0.1", 0)
    made.port = server.sockets[0].getsockname()[1]
    try:
        yield made
    finally:
        server.close()


def through(stack: Stack, goal: str, url: str) -> MachineSpec:
    spec = stack.base.spec(ASK + goal, stack.server.url)
    return spec.model_copy(update={"gateway_url": url})


async def test_what_a_goal_sends_to_its_gateway_is_answered_from_outside(stack: Stack) -> None:
    async with upstream() as gateway:
        spec = through(stack, "ask hello; ask world", gateway.url)
        end = await stack.run(spec)
        assert (end.outcome, await stack.hub.text(spec.machine_id)) == ("succeeded", ["got olleh", "got dlrow"])
        assert gateway.heard == [b"hello\n", b"world\n"]


async def test_the_way_is_there_before_the_first_word_of_the_goal_and_its_port_is_taken(stack: Stack) -> None:
    async with upstream() as gateway:
        spec = through(stack, "cat /proc/net/tcp | grep -c ' 0100007F:1F90 .* 0A '; ask now", gateway.url)
        await stack.run(spec)
        assert await stack.hub.text(spec.machine_id) == ["1", "got won"]


async def test_nothing_else_of_the_host_or_beyond_is_reached(stack: Stack) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        async with upstream() as gateway:
            ports = f"{other.getsockname()[1]} {stack.server.url.rpartition(':')[2]} {gateway.port}"
            goal = (
                f"for p in {ports}; do (exec 3<>/dev/tcp/127.0.0.1/$p) 2>/dev/null && echo open $p; done; "
                "(exec 3<>/dev/tcp/192.0.2.1/80) 2>/dev/null && echo outside; "
                "tail -n +3 /proc/net/dev | cut -d: -f1 | tr -d ' '; ask end"
            )
            spec = through(stack, goal, gateway.url)
            await stack.run(spec)
            assert await stack.hub.text(spec.machine_id) == ["lo", "got dne"]


async def test_a_machine_without_a_gateway_has_no_way_out(stack: Stack) -> None:
    _, lines = await stack.goal("(exec 3<>/dev/tcp/127.0.0.1/8080) 2>/dev/null && echo open || echo closed")
    assert lines == ["closed"]


async def test_half_of_a_connection_can_be_closed_and_large_answers_wait_for_the_reader(stack: Stack) -> None:
    async with upstream() as gateway:
        goal = "exec 3<>/dev/tcp/127.0.0.1/8080; echo 'give 30000000' >&3; sleep 0.5; head -c 30000000 <&3 | wc -c"
        spec = through(stack, goal, gateway.url)
        await stack.run(spec)
        assert await stack.hub.text(spec.machine_id) == ["30000000"]


async def test_more_connections_than_allowed_wait_for_their_turn(stack: Stack) -> None:
    async with upstream() as gateway:
        goal = (
            "for n in $(seq 100); do (exec 3<>/dev/tcp/127.0.0.1/8080; echo $n >&3; read -r l <&3; echo $l; "
            "sleep 0.2) & [ $((n % 40)) = 0 ] && wait; done; wait"
        )
        spec = through(stack, goal, gateway.url)
        await stack.run(spec, timeout_s=40)
        assert len(await stack.hub.text(spec.machine_id)) == 100
        assert gateway.most <= 64


async def test_the_way_ends_with_the_incarnation(stack: Stack) -> None:
    async with upstream() as gateway:
        spec = through(stack, "ask up; sleep 1000", gateway.url)
        await stack.hypervisor.create(spec)
        await eventually(lambda: gateway.open == 1)
        await stack.hypervisor.destroy(spec.machine_id, 1)
        await eventually(lambda: gateway.open == 0)


async def test_a_gateway_that_is_away_for_a_moment_is_waited_for(stack: Stack) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    spec = through(stack, "echo up; ask late", f"http://127.0.0.1:{port}")
    await stack.hypervisor.create(spec)
    try:

        async def is_up() -> bool:
            return "up" in await stack.hub.text(spec.machine_id)

        await eventually(is_up)
        made = Upstream()
        server = await asyncio.start_server(made.serve, "127.0.0.1", port)

        async def answered() -> bool:
            return "got etal" in await stack.hub.text(spec.machine_id)

        await eventually(answered)
        server.close()
    finally:
        await stack.hypervisor.destroy(spec.machine_id, 1)


@pytest.mark.parametrize("url", ["https://gateway:1", "http://gateway", "gateway:80", "http://[::1", "http://x:99999"])
async def test_only_a_plain_host_and_port_is_a_gateway(url: str) -> None:
    with pytest.raises(NoWayOut):
        address_of(url)
