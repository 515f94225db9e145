"""Chunks over HTTP, for clients that upload and download snapshots: the protocol of `snapshots.endpoint`, with bearers.

Any good API key may read: a digest is not guessable. To put something there needs a role that may write.
"""

import asyncio
import socket
from collections.abc import AsyncGenerator, Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager

import structlog
import uvicorn
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from services.kit.apikeys import ApiKeys
from snapshots.directory import DirectoryChunkStore
from snapshots.endpoint import answer
from snapshots.wire import BODY_BYTES_MAX, PREFIX

BODY_TIMEOUT_S = 120.0
"""How long a client may take to send one body."""
SHUTDOWN_S = 5
CONNECTIONS_MAX = 1_000
_WRITES = frozenset({f"{PREFIX}/chunks", f"{PREFIX}/commit"})
_log: structlog.stdlib.BoundLogger = structlog.get_logger("checkpointer")


class TooLarge(Exception):
    """The body is larger than one request may be."""


def store_app(store: DirectoryChunkStore, keys: ApiKeys, threads: ThreadPoolExecutor) -> Starlette:
    """The ASGI application: authenticate, read a bounded body, answer in a thread."""

    async def serve(request: Request) -> Response:
        refused = _refused(request, keys)
        if refused is not None:
            return refused
        try:
            async with asyncio.timeout(BODY_TIMEOUT_S):
                body = await _body(request)
        except TooLarge:
            return _problem(413, f"a body may have at most {BODY_BYTES_MAX} bytes; send fewer chunks at once")
        except TimeoutError:
            return _problem(408, f"the body was not there within {BODY_TIMEOUT_S:g} s")
        except ClientDisconnect:
            return Response(status_code=400)
        path = request.url.path
        loop = asyncio.get_running_loop()
        said = await loop.run_in_executor(threads, answer, store, request.method, path, body)
        if said.status >= 500:
            _log.warning("store.troubled", method=request.method, path=path, status=said.status, body=said.body[:500])
        return Response(said.body, said.status, media_type=said.media_type)

    return Starlette(routes=[Route(f"{PREFIX}/{{path:path}}", serve, methods=["GET", "POST"])])


def _refused(request: Request, keys: ApiKeys) -> Response | None:
    scheme, _, bearer = request.headers.get("authorization", "").partition(" ")
    principal = keys.authenticate(bearer.strip()) if scheme.lower() == "bearer" else None
    if principal is None:
        said = "an API key is needed: Authorization: Bearer <key>; `autovibe credentials` makes one"
        return _problem(401, said, {"WWW-Authenticate": "Bearer"})
    writes = request.method == "POST" and request.url.path.rstrip("/") in _WRITES
    if writes and not principal.may_write:
        return _problem(403, f"role {principal.role} may not upload; operator or admin may")
    return None


async def _body(request: Request) -> bytes:
    declared = request.headers.get("content-length", "0")
    if declared.isdecimal() and int(declared) > BODY_BYTES_MAX:
        raise TooLarge
    parts: list[bytes] = []
    size_bytes = 0
    async for part in request.stream():
        size_bytes += len(part)
        if size_bytes > BODY_BYTES_MAX:
            raise TooLarge
        parts.append(part)
    return b"".join(parts)


def _problem(status: int, message: str, headers: dict[str, str] | None = None) -> Response:
    return JSONResponse({"error": message, "kind": "refused"}, status, headers)


class _QuietServer(uvicorn.Server):
    """Leaves signals to whoever runs the service."""

    @contextmanager
    def capture_signals(self) -> Generator[None]:
        yield


@asynccontextmanager
async def serving(app: Starlette, host: str, port: int) -> AsyncGenerator[int]:
    """Serve inside the block. Yields the port, for those who asked for a free one.

    Raises:
        OSError: The address is in use or none of this host.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.create_server((host, port), family=family, backlog=256) as listener:
        config = uvicorn.Config(
            app,
            log_config=None,
            access_log=False,
            lifespan="off",
            server_header=False,
            limit_concurrency=CONNECTIONS_MAX,
            timeout_graceful_shutdown=SHUTDOWN_S,
        )
        server = _QuietServer(config)
        running = asyncio.create_task(server.serve(sockets=[listener]), name="store-http")
        try:
            while not server.started and not running.done():
                await asyncio.sleep(0.01)
            yield int(listener.getsockname()[1])
        finally:
            server.should_exit = True
            await running
