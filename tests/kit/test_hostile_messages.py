"""Messages that pretend to be the server's, at the places where only the server is expected."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import pytest

from cli.stack.nats import EmbeddedNats
from events import address
from events.envelope import Cause
from events.project import ProjectCreated
from schema.streams import IN
from services.kit.bus import Bus
from services.kit.log import Write
from services.kit.message import RawMessage
from services.kit.reactor import Reactors
from tests.harness import eventually
from tests.kit.test_client import publish_bytes

STATUSES = [
    b"NATS/1.0\r\nStatus: 409\r\nDescription: Consumer Deleted\r\n\r\n",
    b"NATS/1.0\r\nStatus: 404\r\n\r\n",
    b"NATS/1.0\r\nStatus: 100\r\n\r\n",
    b"NATS/1.0\r\nstatus: 500\r\n\r\n",
    b"NATS/1.0 409 Consumer Deleted\r\n\r\n",
    b"NATS/1.0 503\r\n\r\n",
    b"NATS/1.0 100 Idle Heartbeat\r\n\r\n",
    b"NATS/1.0\r\n\r\n",
    b"NATS/1.0\r\nno colon\r\n: \r\n\xff\xed\xa0\x80: \xed\xa0\x80\r\n\r\n",
]


@asynccontextmanager
async def heard_at_the_door(bus: Bus) -> AsyncGenerator[list[bytes]]:
    reactors = Reactors(bus, "intake")
    heard: list[bytes] = []

    @reactors.on_raw(stream=IN, durable="intake", subjects=["in.>"])
    async def on_knock(message: RawMessage) -> None:
        heard.append(message.data)

    async with reactors.running():
        yield heard


@pytest.mark.parametrize("header", STATUSES)
async def test_a_client_cannot_pass_its_message_off_as_the_servers_word(
    server: EmbeddedNats, bus: Bus, header: bytes
) -> None:
    """nats-py takes a `Status` header for the server's; the message would never be heard, or end the pulling."""
    async with heard_at_the_door(bus) as heard:
        for body in (b"first", b"again"):
            sizes = b"%d %d" % (len(header), len(header) + 5)
            await publish_bytes(server, b"HPUB in.webshop.a.b.C %b\r\n%b%b\r\n" % (sizes, header, body))
        await publish_bytes(server, b"PUB in.webshop.a.b.C 4\r\nlast\r\n")
        await eventually(lambda: heard[-1:] == [b"last"])
        assert heard == [b"first", b"again", b"last"]


async def test_nonsense_in_the_inbox_of_our_answers_does_not_end_the_connection(server: EmbeddedNats, bus: Bus) -> None:
    """Whatever is at the other end of a raw subscription, the read loop goes on and an append finds out by its ids."""
    follower = bus.log.follow()
    hearing = asyncio.ensure_future(anext(follower))
    await eventually(lambda: len(bus.nc.raw_handlers) > 1)
    inboxes = [bus.nc._subs[sid].subject for sid in bus.nc.raw_handlers]  # pyright: ignore[reportPrivateUsage]
    append = asyncio.ensure_future(
        bus.log.append(Write(address.project("p"), 0, (ProjectCreated(),)), cause=Cause("test"))
    )
    tokens = [b"%x" % number for number in range(1, 40)]
    for inbox in inboxes:
        names = [inbox.encode().replace(b"*", token) for token in tokens] if "*" in inbox else [inbox.encode()]
        for body in (b"nonsense", b"[]", b"{}", b'{"stream":"IN","seq":"x"}'):
            await publish_bytes(server, b"".join(b"PUB %b %d\r\n%b\r\n" % (name, len(body), body) for name in names))
    await append
    assert (await hearing)[0].seq == 1
    await follower.aclose()
    assert bus.nc.stats["reconnects"] == 0
