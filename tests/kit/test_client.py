"""The connection: what hostile bytes, dead servers and changed credentials do to it."""

import asyncio
from pathlib import Path
from unittest.mock import AsyncMock, patch

import pytest
import uvloop
from nats.aio.msg import Msg

from cli.stack.nats import EmbeddedNats
from services.kit.bus import Bus, BusSettings
from services.kit.errors import Transient
from services.kit.wire import ApiError, parse_headers
from tests.harness import eventually, free_port
from tests.kit.conftest import connect

HOSTILE = [b"in.\xff\xfe.x", b"in.a\x0bb.c", b"in.a\x0cb", b"in.\xc3\x28", b"in.a\rb", "in.ü.€".encode(), b"in.a\x00b"]


async def publish_bytes(server: EmbeddedNats, commands: bytes) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    await reader.readline()
    writer.write(b'CONNECT {"verbose":false,"pedantic":false,"headers":true}\r\n' + commands + b"PING\r\n")
    await writer.drain()
    while not (await reader.readline()).startswith(b"PONG"):
        pass
    writer.close()


@pytest.mark.parametrize("subject", HOSTILE)
async def test_no_subject_ends_the_connection(server: EmbeddedNats, bus: Bus, subject: bytes) -> None:
    heard: list[Msg] = []

    async def hear(message: Msg) -> None:
        heard.append(message)

    await bus.nc.subscribe("in.>", cb=hear)
    await bus.nc.flush()
    await publish_bytes(server, b"PUB %b 2\r\nhi\r\nPUB in.after 2\r\nok\r\n" % subject)
    await eventually(lambda: [message.data for message in heard] == [b"hi", b"ok"])
    assert bus.nc.stats["reconnects"] == 0


async def test_odd_headers_are_escaped_and_nothing_is_lost(server: EmbeddedNats, bus: Bus) -> None:
    heard: list[Msg] = []

    async def hear(message: Msg) -> None:
        heard.append(message)

    await bus.nc.subscribe("in.>", cb=hear)
    await bus.nc.flush()
    header = b"NATS/1.0\r\nk\xff: v\xfe\r\nno colon\r\n: \r\n\xe9: x\r\n\r\n"
    await publish_bytes(server, b"HPUB in.a %d %d\r\n%bhi\r\n" % (len(header), len(header) + 2, header))
    await publish_bytes(server, b"PUB in.b 2\r\nok\r\n")
    await eventually(lambda: [message.data for message in heard] == [b"hi", b"ok"])
    assert parse_headers(header)["k\\xff"] == "v\\xfe"


async def test_large_messages_arrive_whole(bus: Bus) -> None:
    heard: list[bytes] = []

    async def hear(message: Msg) -> None:
        heard.append(message.data)

    await bus.nc.subscribe("x.>", cb=hear)
    sizes = [0, 1, 31_000, 65_536, 1_000_000, 3]
    for size in sizes:
        await bus.nc.publish("x.y", b"\r\n" * (size // 2) + b"x" * (size % 2))
    await eventually(lambda: [len(data) for data in heard] == sizes)


async def test_a_server_that_comes_back_is_found_and_subscriptions_live_on(server: EmbeddedNats, bus: Bus) -> None:
    heard: list[bytes] = []

    async def hear(message: Msg) -> None:
        heard.append(message.data)

    await bus.nc.subscribe("x.>", cb=hear)
    for round_number in range(3):
        server.kill()
        await eventually(lambda: not bus.nc.is_connected)
        assert not bus.health().ok
        await server.start()
        await eventually(lambda: bus.nc.is_connected)
        assert bus.health().ok
        assert (await bus.wire.api("INFO"))["streams"] == 6
        await bus.nc.publish("x.y", b"%d" % round_number)
        await eventually(lambda n=round_number: heard[-1:] == [b"%d" % n])


def test_nothing_is_sent_on_a_connection_that_was_closed_a_moment_ago(server: EmbeddedNats) -> None:
    async def closed() -> bool:
        async with connect(server) as bus:
            bus.nc._transport.close()  # pyright: ignore[reportPrivateUsage, reportOptionalMemberAccess] # as a reset does
            with patch.object(bus.nc, "_process_op_err", AsyncMock()):  # nobody has noticed yet
                await asyncio.sleep(0.01)
                assert bus.nc.is_connected
                return bus.nc.send_now(b"PING\r\n")

    assert not uvloop.run(closed()), "uvloop raises where asyncio writes into the void"


async def test_a_request_fails_at_once_when_the_server_dies(server: EmbeddedNats, bus: Bus) -> None:
    await bus.nc.subscribe("silent")
    waiting = asyncio.create_task(bus.wire.request("silent", timeout_s=30))
    await bus.nc.flush()
    server.kill()
    with pytest.raises(Transient, match="connection was lost"):
        await asyncio.wait_for(waiting, 5)
    with pytest.raises(Transient, match="not connected"):
        await bus.wire.request("silent")


async def test_an_unanswered_request_ends_in_time(bus: Bus) -> None:
    await bus.nc.subscribe("silent")
    with pytest.raises(Transient, match=r"within 0\.05 s"):
        await bus.wire.request("silent", timeout_s=0.05)
    with pytest.raises(Transient, match="nobody answers"):
        await bus.wire.request("nobody.there")
    with pytest.raises(ApiError, match="stream not found"):
        await bus.wire.api("STREAM.INFO.NOPE")


async def test_connecting_to_nobody_ends_in_time_and_tells_no_password() -> None:
    settings = BusSettings(nats_url=f"nats://ann:secret@127.0.0.1:{free_port()}", nats_connect_deadline_s=0.3)
    with pytest.raises(Transient, match="no NATS server took us") as error:
        async with Bus.connect(settings, name="x"):
            pass
    assert "secret" not in str(error.value)


async def test_changed_credentials_renew_the_connection(
    server: EmbeddedNats, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("services.kit.bus.CREDS_LOOK_S", 0.02)
    creds = tmp_path / "hub.creds"
    creds.write_text(CREDS)
    settings = BusSettings(nats_url=server.url, nats_creds=creds, nats_inbox_prefix="_INBOX")
    async with Bus.connect(settings, name="test") as bus:
        creds.write_text(CREDS + "\n")
        await eventually(lambda: bus.nc.stats["reconnects"] >= 1 and bus.nc.is_connected)


CREDS = """-----BEGIN NATS USER JWT-----
eyJ0eXAiOiJKV1QiLCJhbGciOiJlZDI1NTE5LW5rZXkifQ.e30.
------END NATS USER JWT------
-----BEGIN USER NKEY SEED-----
SUACSSL3UAHUDXKFSNVUZRF5UHPMWZ6BFDTJ7M6USDXIEDNPPQYYYCU3VY
------END USER NKEY SEED------
"""


async def test_two_buses_do_not_hear_each_others_answers(server: EmbeddedNats, bus: Bus) -> None:
    async with connect(server, "second") as second:
        answers = await asyncio.gather(*((bus, second)[n % 2].wire.api("INFO") for n in range(20)))
    assert len(answers) == 20
