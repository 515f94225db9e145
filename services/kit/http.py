"""The small HTTP server beside a service: /healthz, /readyz, /metrics. Bounded, with deadlines, nothing to import.

/healthz: the process answers. /readyz: all parts are well, else 503 and which is not.
"""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager

import orjson

from services.kit.health import Health, Part

REQUEST_TIMEOUT_S = 5.0
REQUEST_BYTES_MAX = 16_384
HEALTH_TIMEOUT_S = 4.0

_REASONS = {200: "OK", 404: "Not Found", 405: "Method Not Allowed", 503: "Service Unavailable"}


@asynccontextmanager
async def serve_health(
    host: str, port: int, health: Callable[[], Awaitable[Health]], metrics: Callable[[], bytes]
) -> AsyncGenerator[int]:
    """Serve inside the block. Yields the port, for those who asked for a free one."""

    async def answer(path: str) -> tuple[int, str, bytes]:
        match path:
            case "/healthz":
                return 200, "application/json", b'{"ok":true}'
            case "/readyz":
                found = await _bounded(health)
                return (200 if found.ok else 503), "application/json", orjson.dumps(found.json())
            case "/metrics":
                await _bounded(health)
                return 200, "text/plain; version=0.0.4; charset=utf-8", metrics()
            case _:
                return 404, "application/json", b'{"error":"there are /healthz, /readyz and /metrics"}'

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with asyncio.timeout(REQUEST_TIMEOUT_S):
                head = await reader.readuntil(b"\r\n\r\n")
                method, _, rest = head.partition(b" ")
                path = rest.split(b" ", 1)[0].split(b"?", 1)[0].decode("latin-1")
                status, kind, body = await answer(path) if method in {b"GET", b"HEAD"} else (405, "text/plain", b"")
                writer.write(
                    f"HTTP/1.1 {status} {_REASONS[status]}\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n"
                    "Cache-Control: no-store\r\nConnection: close\r\n\r\n".encode()
                )
                writer.write(b"" if method == b"HEAD" else body)
                await writer.drain()
        except (TimeoutError, OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            pass  # whoever asked went away or said nothing sensible; there is nobody to tell
        finally:
            writer.close()

    server = await asyncio.start_server(handle, host, port, limit=REQUEST_BYTES_MAX)
    try:
        yield int(server.sockets[0].getsockname()[1])
    finally:
        server.close()
        await server.wait_closed()


async def _bounded(health: Callable[[], Awaitable[Health]]) -> Health:
    try:
        async with asyncio.timeout(HEALTH_TIMEOUT_S):
            return await health()
    except TimeoutError:
        return Health((Part("health", ok=False, detail=f"no answer within {HEALTH_TIMEOUT_S} s"),))
