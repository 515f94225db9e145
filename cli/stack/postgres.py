"""An embedded PostgreSQL: the wheel's programs, never the wheel's own Python.

PostgreSQL refuses to run as root. There it runs in a user namespace in which our files belong to uid 1000; outside
everything still belongs to root, so the directory can be moved, copied and deleted as any other.
"""

import os
import secrets
import shutil
import signal
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self
from urllib.parse import quote

from psycopg import AsyncConnection, sql

from cli.stack import binaries
from cli.stack.directory import Claim, socket_directory
from cli.stack.process import Process, ServerFailedError

SUPERUSER = "postgres"
SOCKET_PORT = 5432
"""Names the socket; nothing listens on TCP unless asked for."""
INITDB_S = 60.0
START_S = 120.0
"""Recovery replays at most `max_wal_size` (1 GB) of log."""
STOP_S = 30.0
CONNECT_S = 10
STATUS_LINE = 7
"""Where the server writes `ready` in postmaster.pid once it takes connections (what pg_ctl waits for)."""


@dataclass(frozen=True, slots=True)
class PostgresConfig:
    """What the server is told. Local clients reach it through a socket in a 0700 directory, without a password."""

    tcp_port: int | None = None
    """Listen on 127.0.0.1 too; there the password is asked for."""
    connections_max: int = 100
    settings: Mapping[str, str] = field(default_factory=dict[str, str])
    """Any of PostgreSQL's own settings, by name. Tests turn `fsync` off; nothing else should."""

    def arguments(self, data: Path, sockets: Path) -> list[str]:
        settings = {
            "listen_addresses": "" if self.tcp_port is None else "127.0.0.1",
            "port": str(self.tcp_port or SOCKET_PORT),
            "unix_socket_directories": str(sockets),
            "max_connections": str(self.connections_max),
            "timezone": "UTC",
            "log_timezone": "UTC",
            "log_checkpoints": "off",
            **self.settings,
        }
        return ["-D", str(data), *(part for name, value in settings.items() for part in ("-c", f"{name}={value}"))]


class EmbeddedPostgres:
    """A PostgreSQL server on `directory` that ends with this process, however this process ends.

    `start` after `stop`, `kill` or a crash goes on with what the directory holds. Start it from the main thread.
    """

    def __init__(self, directory: Path, config: PostgresConfig | None = None) -> None:
        self.directory = directory.absolute()
        self.config = config or PostgresConfig()
        self.data = self.directory / "data"
        self._claim = Claim(self.directory)
        self._process: Process | None = None

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    @property
    def sockets(self) -> Path:
        return socket_directory(self.directory, f".s.PGSQL.{self._port}.lock")

    @property
    def pid(self) -> int:
        """The postmaster's process id."""
        found = self._postmaster()
        if found is None:
            raise ServerFailedError(f"the PostgreSQL on {self.directory} does not run")
        return found

    @property
    def _port(self) -> int:
        return self.config.tcp_port or SOCKET_PORT

    def dsn(self, database: str = "postgres", *, role: str = SUPERUSER) -> str:
        """Return the URL of a database by the unix socket; every role may connect there."""
        host = quote(str(self.sockets), safe="")
        return f"postgresql://{quote(role)}@/{quote(database)}?host={host}&port={self._port}"

    def tcp_dsn(self, database: str = "postgres") -> str:
        """Return the superuser's URL by TCP, password included."""
        password = (self.directory / "password").read_text()
        return f"postgresql://{SUPERUSER}:{quote(password)}@127.0.0.1:{self._port}/{quote(database)}"

    async def start(self) -> None:
        """Make the cluster if there is none, start the server, and return when it takes connections.

        Raises:
            ServerFailedError: It did not come up; nothing is left running.
            DirectoryInUseError: Another server runs on the directory.
            BinaryMissingError: A wheel is not installed.
        """
        await self.stop()
        await self._claim.take()
        try:
            if not self.data.exists():
                await self._make_cluster()
            self._check_version()
            self._forget_dead_server()
            await self._start()
        except BaseException:
            await self.stop()
            raise

    async def stop(self) -> None:
        """Stop the server if it runs; open transactions are rolled back (fast shutdown)."""
        if self._process is not None:
            # Below bwrap only the postmaster may be told: bwrap itself would end at the signal and take it along.
            await self._process.stop(grace_s=STOP_S, number=signal.SIGINT, pid=self._postmaster())
            self._process.close()
            self._process = None
        self._claim.release()

    def kill(self) -> None:
        """End the postmaster by SIGKILL, as a crash would; `start` goes on from there."""
        if self._process is not None:
            self._process.kill(self.pid)

    async def ended(self) -> int:
        """Wait until the server ends by itself and return its exit code: supervision."""
        if self._process is None:
            raise ServerFailedError(f"the PostgreSQL on {self.directory} was not started")
        return await self._process.ended()

    async def create_role(self, name: str) -> None:
        """Make a role that may log in by the socket and do nothing else, unless it is there."""
        found = sql.SQL("SELECT true FROM pg_roles WHERE rolname = {}").format(name)
        await self._unless(found, sql.SQL("CREATE ROLE {} LOGIN").format(sql.Identifier(name)))

    async def create_database(self, name: str, *, template: str | None = None) -> None:
        """Make a database, as a copy of `template` (to which nobody may be connected), unless it is there."""
        found = sql.SQL("SELECT true FROM pg_database WHERE datname = {}").format(name)
        create = sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name))
        if template is not None:
            create += sql.SQL(" TEMPLATE {} STRATEGY file_copy").format(sql.Identifier(template))
        await self._unless(found, create)

    async def drop_database(self, name: str) -> None:
        """Drop a database, and the connections to it, if it is there."""
        drop = sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name))
        await self._unless(sql.SQL("SELECT true WHERE false"), drop)

    async def _unless(self, found: sql.SQL | sql.Composed, statement: sql.Composed) -> None:
        async with await AsyncConnection.connect(self.dsn(), autocommit=True, connect_timeout=CONNECT_S) as connection:
            if await (await connection.execute(found)).fetchone() is None:
                await connection.execute(statement)

    async def _make_cluster(self) -> None:
        # Renamed when it is whole: killed before, the next start begins again.
        half_made = self.directory / "data.new"
        shutil.rmtree(half_made, ignore_errors=True)
        password = self.directory / "password"
        password.write_text(secrets.token_urlsafe(24))
        password.chmod(0o600)
        arguments = ["-D", half_made, "-U", SUPERUSER, "--encoding=UTF8", "--locale-provider=builtin", "--locale=C"]
        arguments += [
            "--builtin-locale=C.UTF-8",
            "--auth-local=trust",
            "--auth-host=scram-sha-256",
            "--pwfile",
            password,
        ]
        if self.config.settings.get("fsync") == "off":
            arguments.append("--no-sync")
        process = self._process = self._spawn("initdb", *arguments)
        try:
            code = await process.ended(INITDB_S)
        except TimeoutError as late:
            raise ServerFailedError(f"initdb not done within {INITDB_S:g} s: {process.tail()}") from late
        if code != 0:
            raise ServerFailedError(f"initdb ended with {code}: {process.tail()}{_remedy(process.tail())}")
        process.close()
        self._process = None
        half_made.rename(self.data)

    def _check_version(self) -> None:
        major = (self.data / "PG_VERSION").read_text().strip()
        if major != str(binaries.POSTGRES_MAJOR):
            raise ServerFailedError(
                f"{self.data} was made by PostgreSQL {major}, installed is {binaries.POSTGRES_MAJOR}; remedy: move the"
                " directory away and start again: all of it is rebuilt from the log"
            )

    def _forget_dead_server(self) -> None:
        """Remove the lock files of a server that was killed.

        PostgreSQL itself refuses to start while any process has the number that is in them, and after a restart of a
        container small numbers soon belong to somebody else. We hold the directory's lock and have seen that nobody
        works in it, so no server can be alive.
        """
        for stale in (self.data / "postmaster.pid", self.sockets / f".s.PGSQL.{self._port}.lock"):
            stale.unlink(missing_ok=True)

    async def _start(self) -> None:
        process = self._process = self._spawn("postgres", *self.config.arguments(self.data, self.sockets))
        try:
            await process.until(lambda: self._status() == "ready", deadline_s=START_S, what="ready")
        except ServerFailedError as failed:
            raise ServerFailedError(f"{failed}{_remedy(process.tail())}") from failed

    def _spawn(self, program: str, *arguments: str | Path) -> Process:
        argv: list[str | Path] = [binaries.postgres(program), *arguments]
        if os.getuid() == 0:
            namespace = [
                "--unshare-user",
                "--uid",
                "1000",
                "--gid",
                "1000",
                "--dev-bind",
                "/",
                "/",
                "--die-with-parent",
            ]
            argv = [binaries.bubblewrap(), *namespace, *argv]
        # Ours says nothing to the server: PGPORT, PGDATA and locales would.
        environment = {"PATH": os.defpath, "HOME": str(self.directory)}
        return Process.spawn(argv, cwd=self.directory, log=self.directory / f"{program}.log", env=environment)

    def _lines(self) -> list[str]:
        try:
            return (self.data / "postmaster.pid").read_text().splitlines()
        except FileNotFoundError:
            return []

    def _status(self) -> str:
        return "".join(self._lines()[STATUS_LINE : STATUS_LINE + 1]).strip()

    def _postmaster(self) -> int | None:
        """Return the postmaster's id, None unless it runs: the number in the file may be another's by now."""
        lines = self._lines()
        running = self._process is not None and self._process.returncode is None
        return int(lines[0]) if running and lines else None


def _remedy(log: str) -> str:
    if "namespace" in log or "Operation not permitted" in log:
        return "\nremedy: this root may not make user namespaces; run as another user, or use --database-url"
    return ""
