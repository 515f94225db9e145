"""Whether the server keeps its word: an acknowledgement must mean that the data is on disk.

Two things void that silently: `sync_interval` other than `always`, and a stream's `persist_mode: async`. The second
is compared by `services.kit.topology`; the first only the system account or the monitoring port tells.
"""

import asyncio
import urllib.request
from collections.abc import Mapping
from pathlib import Path

import orjson

from services.kit.bus import open_client
from services.kit.errors import Transient
from services.kit.settings import BusSettings, TopologySettings
from services.kit.topology import Unsafe
from services.kit.wire import Wire, mapping

TIMEOUT_S = 5.0
ANSWER_BYTES_MAX = 8 * 1024 * 1024


async def check(settings: TopologySettings) -> bool:
    """Ask however the settings allow. Returns whether there was anybody to ask; raises as `check_by_monitor`."""
    if settings.nats_monitor_url:
        await check_by_monitor(settings.nats_monitor_url)
    elif settings.nats_system_creds:
        await check_by_system(settings, settings.nats_system_creds)
    else:
        return False
    return True


async def check_by_monitor(url: str) -> None:
    """Ask the monitoring port (`http://127.0.0.1:8222`).

    Raises:
        Unsafe: The server does not sync before it acknowledges.
        Transient: It did not answer.
    """

    def get() -> Mapping[str, object]:
        with urllib.request.urlopen(f"{url.rstrip('/')}/jsz?config=true", timeout=TIMEOUT_S) as answer:  # noqa: S310 # an operator's URL
            return mapping(orjson.loads(answer.read(ANSWER_BYTES_MAX)))

    try:
        found = await asyncio.to_thread(get)
    except (OSError, ValueError) as error:
        raise Transient(f"{url} did not say how the server syncs: {error}") from error
    _judge(url, found)


async def check_by_system(settings: BusSettings, system_creds: Path | None) -> None:
    """Ask through the system account; raises as `check_by_monitor`."""
    system = settings.model_copy(update={"nats_creds": system_creds, "nats_inbox_prefix": "_INBOX"})
    client = await open_client(system, "autovibe durable")
    try:
        wire = Wire(client)
        await wire.open()
        reply = await wire.request("$SYS.REQ.SERVER.PING.JSZ", b'{"config":true}', TIMEOUT_S)
        answer = mapping(orjson.loads(reply.data))
        _judge(str(mapping(answer["server"]).get("name")), mapping(answer["data"]))
    finally:
        await client.close()


def _judge(server: str, found: Mapping[str, object]) -> None:
    config = mapping(found.get("config") or {})
    if config.get("sync_always") is not True:
        raise Unsafe(
            f"server {server} acknowledges before its data is on disk "
            f"(sync_interval {config.get('sync_interval')!r} ns): set `sync_interval: always` in its jetstream block"
        )
