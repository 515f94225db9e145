"""Keeping an embedded server running: started again when it ends, or when it is up but does no work."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import Protocol

import structlog

PAUSE_MIN_S = 0.2
PAUSE_MAX_S = 10.0
CHECK_EVERY_S = 5.0
CHECK_S = 10.0
CHECKS_FAILED_MAX = 2

_log: structlog.stdlib.BoundLogger = structlog.get_logger("stack")


class Server(Protocol):
    """What can be started again on its directory."""

    async def start(self) -> None: ...

    async def ended(self) -> int: ...


@asynccontextmanager
async def keep_running(
    name: str, server: Server, *, answers: Callable[[], Awaitable[bool]] | None = None
) -> AsyncGenerator[None]:
    """Start the server again, with growing pauses, whenever it ends inside the block.

    Args:
        answers: Asked every `CHECK_EVERY_S`; when it says False twice in a row the server is restarted too.
    """
    keeper = asyncio.create_task(_keep(name, server, answers), name=f"keep-{name}")
    try:
        yield
    finally:
        keeper.cancel()
        with suppress(asyncio.CancelledError):
            await keeper


async def _keep(name: str, server: Server, answers: Callable[[], Awaitable[bool]] | None) -> None:
    pause_s = PAUSE_MIN_S
    while True:
        why = await _why_not(server, answers)
        _log.error("server.lost", server=name, reason=why)
        while True:
            await asyncio.sleep(pause_s)
            try:
                await server.start()
            except Exception as error:  # noqa: BLE001  # whatever stands against it, the next try may find it gone
                pause_s = min(pause_s * 2, PAUSE_MAX_S)
                _log.error(
                    "server.not_started", server=name, reason=str(error)[:500], again_in_s=pause_s
                )  # the reason says it
            else:
                _log.warning("server.started_again", server=name)
                pause_s = PAUSE_MIN_S
                break


async def _why_not(server: Server, answers: Callable[[], Awaitable[bool]] | None) -> str:
    """Wait until the server has to be started again, and say why."""
    ended = asyncio.ensure_future(server.ended())
    failed = 0
    try:
        while True:
            await asyncio.wait({ended}, timeout=CHECK_EVERY_S if answers else None)
            if ended.done():
                return f"it ended with exit code {ended.result()}"
            failed = 0 if answers is None or await _well(answers) else failed + 1
            if failed >= CHECKS_FAILED_MAX:
                return f"it does no work: {failed} checks in a row failed"
    finally:
        ended.cancel()
        with suppress(asyncio.CancelledError):
            await ended


async def _well(answers: Callable[[], Awaitable[bool]]) -> bool:
    try:
        async with asyncio.timeout(CHECK_S):
            return await answers()
    except Exception as error:  # noqa: BLE001  # a check that cannot be made counts as failed
        _log.warning("server.check_failed", reason=str(error)[:300])
        return False
