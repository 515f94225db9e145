"""uvicorn inside a loop that is not its own: no signals, no exit, a socket that is bound before anything starts."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncGenerator, Generator

import uvicorn
from starlette.types import ASGIApp

from services.kit.errors import Refused

BACKLOG = 2_048
KEEP_ALIVE_S = 75
SHUTDOWN_S_MAX = 5
START_POLL_S = 0.005


class _Quiet(uvicorn.Server):
    """Whoever runs the service ends it; uvicorn's own signal handlers would end the process first."""

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None]:
        yield


@contextlib.asynccontextmanager
async def serving(app: ASGIApp, host: str, port: int, *, connections_max: int) -> AsyncGenerator[int]:
    """Serve inside the block; on leaving it, answers that have begun get `SHUTDOWN_S_MAX` to end. Yields the port.

    Raises:
        Refused: The address cannot be had.
    """
    listener = _listener(host, port)
    config = uvicorn.Config(
        app,
        http="httptools",
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        date_header=False,
        proxy_headers=False,
        limit_concurrency=connections_max,
        timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=SHUTDOWN_S_MAX,
    )
    server = _Quiet(config)
    running = asyncio.create_task(server.serve(sockets=[listener]))
    try:
        while not server.started and not running.done():
            await asyncio.sleep(START_POLL_S)
        if running.done():
            await running
        yield int(listener.getsockname()[1])
    finally:
        server.should_exit = True
        await running
        listener.close()


def _listener(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        raise Refused(
            f"cannot listen on {host}:{port}: {error.strerror}; set AUTOVIBE_QUERY_HOST, AUTOVIBE_QUERY_PORT"
        ) from error
    listener.setblocking(False)
    return listener
