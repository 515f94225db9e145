"""The whole hub in one process tree: nats-server, PostgreSQL and every service as tasks of this process.

The same `create_app` of each service runs alone in its container; nothing here decides anything. Whatever this process
started ends with it, also by `kill -9`; whatever was acknowledged is in the data directory.
"""

import asyncio
import random
import shutil
import socket
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import structlog
from psycopg.conninfo import make_conninfo

from cli.context import Context
from cli.exits import CliError, Exit
from cli.stack import access, binaries, services
from cli.stack.directory import DirectoryInUseError, held
from cli.stack.nats import EmbeddedNats, NatsConfig, OperatorMode
from cli.stack.places import Places
from cli.stack.postgres import EmbeddedPostgres
from cli.stack.process import ServerFailedError
from cli.stack.supervision import keep_running
from events.fresh import now
from schema import migrations
from schema.migrations import MigrationError
from services.issuer.bootstrap import Prepared, prepare
from services.issuer.keys import KeyStore, UnsafeKeys
from services.kit import durable, topology
from services.kit.bus import Bus
from services.kit.errors import Refused, Transient
from services.kit.settings import BusSettings, TopologySettings
from services.kit.stuck import write_error

DATABASE = "autovibe"
PORT_MIN = 20_000
"""Below are the ports that services are known by."""
PORT_TRIES = 20
FREE_BYTES_MIN = 64 * 1024 * 1024
"""With less a server that is started again would only fill the disk again."""

_log: structlog.stdlib.BoundLogger = structlog.get_logger("stack")


@dataclass(frozen=True, slots=True)
class StackOptions:
    """What is started, and where."""

    data: Path
    host: str = "127.0.0.1"
    http_port: int = 8000
    """0: any free one; as for the others."""
    store_port: int = 8001
    gateway_port: int = 8002
    nats_port: int = 4222
    nats_url: str | None = None
    """A server that is already there, instead of an embedded one."""
    nats_creds: Path | None = None
    """Credentials in its account HUB."""
    nats_system_creds: Path | None = None
    keys: Path | None = None
    """Directory with the operator's and the accounts' keys; the data directory's own without it."""
    database_url: str | None = None
    """A database that is already there; its user must be able to create roles."""


@asynccontextmanager
async def running(options: StackOptions) -> AsyncGenerator[Context]:
    """Start everything in order, yield how to reach it, stop everything in the opposite order.

    Raises:
        CliError: A hub runs on the directory already, a port is taken, the sandbox is unsafe on this host, a server did not
            come up or is not durable, or the streams or tables there are not those of this version.
    """
    _directory(options.data)
    async with AsyncExitStack() as stack:
        try:
            places = await _servers(stack, options)
        except (ServerFailedError, DirectoryInUseError, binaries.BinaryMissingError, UnsafeKeys) as error:
            raise CliError(Exit.FAILED, str(error)) from error
        try:
            await _prepare(places)
        except (Refused, Transient, MigrationError) as error:
            raise CliError(Exit.FAILED, str(error)) from error
        await stack.enter_async_context(services.running(places))
        context = await access.context(places, options.data)
        yield context


def _directory(data: Path) -> None:
    try:
        data.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise CliError(Exit.USAGE, f"--data {data} cannot be made: {error.strerror}") from error
    if held(data / "nats") or held(data / "postgres"):
        raise CliError(Exit.FAILED, f"a hub runs on {data} already", remedy="stop it, or give another --data")


async def _servers(stack: AsyncExitStack, options: StackOptions) -> Places:
    """Start what is embedded, both at once: each takes as long as its recovery."""
    keys = options.keys or options.data / "keys"
    prepared = prepare(KeyStore(keys), options.data / "creds", resolver=options.data / "nats" / "accounts", at=now())
    monitor_port = _port("127.0.0.1", 0, "") if options.nats_url is None else None
    monitor_url = f"http://127.0.0.1:{monitor_port}" if monitor_port else BusSettings().nats_monitor_url
    nats_url, database_url = await asyncio.gather(
        _nats(stack, options, prepared, monitor_port) if options.nats_url is None else _given(options.nats_url),
        _postgres(stack, options) if options.database_url is None else _given(options.database_url),
    )
    return Places(
        nats_url=nats_url,
        nats_creds=prepared.hub_creds if options.nats_url is None else options.nats_creds,
        nats_system_creds=prepared.system_creds if options.nats_url is None else options.nats_system_creds,
        nats_monitor_url=monitor_url,
        keys=keys,
        database_url=_as_role(database_url, migrations.OWNER, embedded=options.database_url is None),
        database_admin_url=database_url,
        database_reader_url=_as_role(database_url, migrations.READER, embedded=options.database_url is None),
        store=options.data / "store",
        scratch=options.data / "scratch",
        machines=options.data,
        host=options.host,
        http_port=_port(options.host, options.http_port, "--port"),
        store_port=_port(options.host, options.store_port, "--store-port"),
        gateway_port=_port(options.host, options.gateway_port, "--gateway-port"),
    )


async def _nats(stack: AsyncExitStack, options: StackOptions, prepared: Prepared, monitor_port: int | None) -> str:
    port = _port(options.host, options.nats_port, "--nats-port")
    operator = OperatorMode(prepared.operator_jwt, prepared.system_account, prepared.resolver, preload=prepared.preload)
    config = NatsConfig(host=options.host, port=port, monitor_port=monitor_port, operator=operator)
    server = EmbeddedNats(options.data / "nats", config)
    await stack.enter_async_context(server)
    health = _stores(f"http://127.0.0.1:{monitor_port}", options.data)
    await stack.enter_async_context(keep_running("nats-server", server, answers=health))
    return server.url


async def _postgres(stack: AsyncExitStack, options: StackOptions) -> str:
    server = EmbeddedPostgres(options.data / "postgres")
    await stack.enter_async_context(server)
    await server.create_database(DATABASE)
    await stack.enter_async_context(keep_running("postgres", server))
    return server.dsn(DATABASE)


async def _given(url: str) -> str:
    return url


def _as_role(url: str, role: str, *, embedded: bool) -> str:
    """Return the connection string with which a session has only this role's rights from its first statement on.

    The embedded server lets every role in by its socket. Elsewhere the roles have no password that we know, so the
    session puts the role on itself: right for our own statements, and no wall against anybody else's.
    """
    return make_conninfo(url, user=role) if embedded else make_conninfo(url, options=f"-c role={role}")


def _stores(monitor_url: str, data: Path) -> Callable[[], Awaitable[bool]]:
    """Return a check whether the server still stores; after a full disk only a restart makes it, once there is space."""

    async def check() -> bool:
        error = await write_error(monitor_url)
        if not error:
            return True
        free = shutil.disk_usage(data).free
        _log.error("log.not_stored", reason=error[:300], free_bytes=free, wanted_bytes=FREE_BYTES_MIN)
        return free < FREE_BYTES_MIN

    return check


async def _prepare(places: Places) -> None:
    """Bring tables and streams to what this version needs."""
    await asyncio.to_thread(migrations.apply, places.database_admin_url)
    settings = TopologySettings(
        nats_url=places.nats_url, nats_creds=places.nats_creds, nats_system_creds=places.nats_system_creds
    )
    await durable.check(settings)
    async with Bus.connect(settings, name="migrate") as bus:
        for line in await topology.apply(bus, settings.sizes(), settings.nats_replicas):
            _log.info("topology.changed", what=line)


def _below_outgoing() -> int:
    """Return any port that the kernel gives to no outgoing connection.

    What it gives for 0 is from their range, and was taken by one of them before the service listened on it.
    """
    first = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    return random.randrange(min(PORT_MIN, first - 1), first)  # noqa: S311  # spreads, guards nothing


def _port(host: str, port: int, option: str) -> int:
    """Return the port, or a free one for 0.

    Raises:
        CliError: Somebody else listens there.
    """
    for _ in range(PORT_TRIES if port == 0 else 0):
        with suppress(CliError):
            return _port(host, _below_outgoing(), option)
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise CliError(
                Exit.FAILED,
                f"{host}:{port} cannot be listened on: {error.strerror}",
                remedy=f"{option} 0 takes a free one; all free: --port 0 --store-port 0 --gateway-port 0 --nats-port 0",
            ) from error
        return int(probe.getsockname()[1])
