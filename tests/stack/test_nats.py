"""The embedded nats-server."""

import asyncio
import threading
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import nats
import pytest

from cli.stack.directory import DirectoryInUseError, working_in
from cli.stack.nats import EmbeddedNats, NatsConfig, OperatorMode
from cli.stack.process import ServerFailedError
from services.issuer.bootstrap import prepare
from services.issuer.keys import KeyStore
from tests.harness import eventually
from tests.stack.conftest import Parent


async def publish(url: str, *, create: bool = False) -> int:
    """Append one durable message and return its sequence."""
    client = await nats.connect(url)
    try:
        js = client.jetstream()
        if create:
            await js.add_stream(name="KEPT", subjects=["kept"])
        return (await js.publish("kept", b"x")).seq
    finally:
        await client.close()


async def test_a_restart_goes_on_with_the_data(short_tmp: Path) -> None:
    server = EmbeddedNats(short_tmp)
    async with server:
        assert await publish(server.url, create=True) == 1
    async with server:
        assert await publish(server.url) == 2
        server.kill()
        assert await server.ended() == -9
        await server.start()
        assert await publish(server.url) == 3
    assert working_in(short_tmp) == []


async def test_kill_9_of_the_parent_leaves_nothing_running_and_loses_nothing(
    parent: Callable[[str], Parent], short_tmp: Path
) -> None:
    process, pid, url = parent("nats")
    assert working_in(short_tmp) == [pid]
    assert await publish(url, create=True) == 1
    process.kill()
    await eventually(lambda: working_in(short_tmp) == [])
    async with EmbeddedNats(short_tmp) as server:
        assert await publish(server.url) == 2


async def test_a_directory_has_one_server_at_a_time(nats_server: EmbeddedNats) -> None:
    with pytest.raises(DirectoryInUseError, match="is in use by another process"):
        await EmbeddedNats(nats_server.directory).start()
    assert await publish(nats_server.url, create=True) == 1


async def test_a_server_that_cannot_start_says_why_and_leaves_nothing(short_tmp: Path) -> None:
    wrong = OperatorMode(operator_jwt="nonsense", system_account="AAA", resolver_dir=short_tmp / "jwt")
    server = EmbeddedNats(short_tmp, NatsConfig(operator=wrong))
    with pytest.raises(ServerFailedError, match=r"ended with 1 before listening: .*nonsense"):
        await server.start()
    assert working_in(short_tmp) == []
    async with EmbeddedNats(short_tmp):
        pass


async def test_a_server_is_not_started_by_a_thread_that_may_end_before_it(short_tmp: Path) -> None:
    failed: list[Exception] = []

    def start() -> None:
        try:
            asyncio.run(EmbeddedNats(short_tmp).start())
        except RuntimeError as error:
            failed.append(error)

    thread = threading.Thread(target=start)
    thread.start()
    thread.join()
    assert "must be started by the main thread" in str(failed)


def test_the_configuration_is_durable_and_bounded(short_tmp: Path) -> None:
    text = NatsConfig(port=4222, monitor_port=8222).text(short_tmp)
    assert "sync_interval: always" in text
    assert "max_payload: 1048576" in text
    assert "max_file_store: 10737418240" in text
    assert 'http: "127.0.0.1:8222"' in text
    assert "http" not in NatsConfig().text(short_tmp)


async def test_the_server_says_that_it_syncs_always_and_within_which_limits(short_tmp: Path) -> None:
    async with EmbeddedNats(short_tmp, NatsConfig(file_store_bytes_max=10**8)) as server:
        client = await nats.connect(server.url)
        try:
            assert client.max_payload == 2**20
        finally:
            await client.close()
        assert "Max Storage:     95.37 MB" in server.log_tail()
        assert (short_tmp / "nats.conf").stat().st_mode & 0o777 == 0o600


async def test_in_operator_mode_only_credentials_open_the_door_after_a_restart_too(short_tmp: Path) -> None:
    keys = KeyStore(short_tmp / "keys")
    made = prepare(keys, short_tmp / "creds", resolver=short_tmp / "resolver", at=datetime.now(UTC))
    operator = OperatorMode(made.operator_jwt, made.system_account, made.resolver, made.preload)
    server = EmbeddedNats(short_tmp / "nats", NatsConfig(operator=operator))
    for _ in range(2):
        async with server:
            client = await nats.connect(server.url, user_credentials=str(made.hub_creds))
            try:
                assert (await client.jetstream().account_info()).limits.max_storage == -1
            finally:
                await client.close()
            assert "Authorization Violation" in await answer_to_a_stranger(server.port)


async def answer_to_a_stranger(port: int) -> str:
    """Return what the server says to a client without credentials (nats-py leaves its socket open when refused)."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(b'CONNECT {"verbose":false}\r\nPING\r\n')
        return (await reader.read()).decode()
    finally:
        writer.close()
        await writer.wait_closed()
