"""Running the stack in the foreground until a signal."""

import asyncio
import os
import signal
from collections.abc import Callable

from cli import console
from cli.context import Context
from cli.stack.stack import StackOptions, running
from services.kit.logging import configure


def stay(options: StackOptions, ready: Callable[[Context], None]) -> None:
    """Start the stack, say when it is ready, and stop it in order at SIGINT or SIGTERM."""
    # The agents read it too: at a terminal only what needs somebody's attention is said.
    configure("dev", level=os.environ.setdefault("AUTOVIBE_LOG_LEVEL", "warning"))
    asyncio.run(_stay(options, ready))


async def _stay(options: StackOptions, ready: Callable[[Context], None]) -> None:
    """A signal while it is still starting cancels the start; what had started is stopped all the same."""
    stopping = asyncio.Event()
    started = False

    def stop() -> None:
        if not stopping.is_set():
            console.note("stopping")
        stopping.set()
        if not started:
            work.cancel()

    def now_ready(context: Context) -> None:
        nonlocal started
        started = True
        ready(context)

    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop)
    work = asyncio.ensure_future(_until(stopping, options, now_ready))
    try:
        await work
    except asyncio.CancelledError:
        if not stopping.is_set():
            raise


async def _until(stopping: asyncio.Event, options: StackOptions, ready: Callable[[Context], None]) -> None:
    async with running(options) as context:
        ready(context)
        await stopping.wait()
