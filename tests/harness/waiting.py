"""Wait for a level, never sleep, never wait for an edge."""

import asyncio
import inspect
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar, cast, overload

T = TypeVar("T")

TIMEOUT_S = 15.0
POLL_S = 0.01


@overload
async def eventually(level: Callable[[], Awaitable[T]], *, timeout_s: float = ..., poll_s: float = ...) -> T: ...
@overload
async def eventually(level: Callable[[], T], *, timeout_s: float = ..., poll_s: float = ...) -> T: ...
async def eventually(
    level: Callable[[], Awaitable[T]] | Callable[[], T], *, timeout_s: float = TIMEOUT_S, poll_s: float = POLL_S
) -> T:
    """Ask `level` again and again until it gives something true, and return that.

    `level` may also make assertions: a failed one is "not yet", and the last one is what the test fails with.

    Raises:
        AssertionError: It did not hold within `timeout_s`; the message has the last value.
    """
    deadline = time.monotonic() + timeout_s
    while True:
        try:
            last = await _asked(level, max(deadline - time.monotonic(), poll_s))
        except AssertionError:
            if time.monotonic() >= deadline:
                raise
        else:
            if last:
                return last
            if time.monotonic() >= deadline:
                raise AssertionError(f"not within {timeout_s:g} s: the level is still {last!r}")
        await asyncio.sleep(poll_s)


async def _asked(level: Callable[[], Awaitable[T]] | Callable[[], T], timeout_s: float) -> T:
    answer = level()
    if not inspect.isawaitable(answer):
        return cast("T", answer)
    try:
        async with asyncio.timeout(timeout_s):
            return cast("T", await answer)
    except TimeoutError as late:
        raise AssertionError(f"the level gave no answer within {timeout_s:g} s") from late
