"""One NATS connection of a process: core, JetStream and the log."""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import structlog
from nats.errors import Error as NatsError
from nats.js import JetStreamContext

from services.kit.client import SturdyClient
from services.kit.errors import Transient
from services.kit.health import Health, Part
from services.kit.log import Log
from services.kit.log_append import IN_FLIGHT_MAX
from services.kit.settings import BusSettings
from services.kit.wire import Wire

CREDS_LOOK_S = 2.0
CONNECT_PAUSE_S = 0.1
JETSTREAM_TIMEOUT_S = 5.0

_log: structlog.stdlib.BoundLogger = structlog.get_logger("bus")

__all__ = ["Bus", "BusSettings"]


@dataclass(frozen=True, slots=True)
class Bus:
    """A connection that reconnects for ever and survives odd bytes; made by `connect`."""

    nc: SturdyClient
    js: JetStreamContext
    wire: Wire
    log: Log
    name: str

    def health(self) -> Health:
        """Whether the server is reached and stores what is appended."""
        if not self.nc.is_connected:
            return Health((Part("bus", ok=False, detail=f"not connected: {self.nc.last_trouble}"),))
        if self.log.stuck:
            return Health((Part("bus", ok=False, detail="the server answers but stores nothing"),))
        return Health((Part("bus", ok=True, detail=f"{self.nc.stats['reconnects']} reconnects"),))

    @classmethod
    @asynccontextmanager
    async def connect(
        cls, settings: BusSettings, *, name: str, in_flight_max: int = IN_FLIGHT_MAX
    ) -> AsyncGenerator["Bus"]:
        """Connect, and close in the end.

        A change of the credentials file is noticed and the connection renewed with it.

        Raises:
            Transient: No server took us within `nats_connect_deadline_s`.
        """
        seen = _stamp(settings.nats_creds) if settings.nats_creds else None
        client = await open_client(settings, name)
        wire = Wire(client)
        await wire.open()
        log = Log(wire, in_flight_max=in_flight_max, monitor_url=settings.nats_monitor_url)
        bus = cls(client, client.jetstream(timeout=JETSTREAM_TIMEOUT_S), wire, log, name)
        watch = asyncio.create_task(_renew(client, settings.nats_creds, seen)) if settings.nats_creds else None
        try:
            yield bus
        finally:
            if watch is not None:
                watch.cancel()
                with suppress(asyncio.CancelledError):
                    await watch
            await log.appender.close()
            await client.close()


async def open_client(settings: BusSettings, name: str) -> SturdyClient:
    """Connect, trying until `nats_connect_deadline_s`; raises as `Bus.connect`."""
    servers = [server.strip() for server in settings.nats_url.split(",")]
    loop = asyncio.get_running_loop()
    end = loop.time() + settings.nats_connect_deadline_s
    while True:
        client = SturdyClient()
        try:
            await client.open(servers, name=name, creds=settings.nats_creds, inbox_prefix=settings.nats_inbox_prefix)
        except (NatsError, OSError) as error:
            await client.close()
            if loop.time() >= end:
                reason = client.last_trouble or error
                raise Transient(
                    f"no NATS server took us within {settings.nats_connect_deadline_s} s: {_shown(servers)}: {reason}"
                ) from error
            await asyncio.sleep(CONNECT_PAUSE_S)
        else:
            return client


def _shown(servers: Sequence[str]) -> str:
    """Return server addresses without the user and password that may stand in them."""
    return ", ".join(server.rpartition("@")[2] for server in servers)


async def _renew(client: SturdyClient, creds: Path, seen: tuple[int, int] | None) -> None:
    """Reconnect when the credentials file changes: the server cuts the connection when the old ones expire."""
    while True:
        await asyncio.sleep(CREDS_LOOK_S)
        now = _stamp(creds)
        if now and now != seen:
            seen = now
            _log.info("bus.credentials_changed", path=str(creds))
            await client.force_reconnect()


def _stamp(path: Path) -> tuple[int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_ino
