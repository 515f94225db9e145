"""Responses that go on: counted, ended with their reader, their key and the service."""

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing, suppress
from typing import TypeVar

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from services.query.problems import HttpProblem

T = TypeVar("T")

KEEP_ALIVE_S = 15.0
KEY_LOOK_S = 5.0
"""How soon a stream ends whose key was revoked or has expired."""
STREAMS_MAX = 200
STREAMS_PER_KEY_MAX = 64


class Streams:
    """All streams of a service."""

    def __init__(self, *, streams_max: int = STREAMS_MAX, per_key_max: int = STREAMS_PER_KEY_MAX) -> None:
        self._streams_max = streams_max
        self._per_key_max = per_key_max
        self._open: dict[str, int] = {}
        self.closing = asyncio.Event()

    @property
    def open(self) -> int:
        return sum(self._open.values())

    def make(
        self, content: AsyncGenerator[bytes], media_type: str, *, key: str, still_good: Callable[[], bool]
    ) -> Response:
        """
        Raises:
            HttpProblem: 503, there are too many, in all or of this key.
        """
        if self.open >= self._streams_max or self._open.get(key, 0) >= self._per_key_max:
            most = f"{self._streams_max} in all, {self._per_key_max} of one key"
            raise HttpProblem(503, "busy", "too many streams are open", limit=most, headers={"Retry-After": "5"})
        return _Stream(self, content, media_type, key, still_good)

    def took(self, key: str) -> None:
        self._open[key] = self._open.get(key, 0) + 1

    def left(self, key: str) -> None:
        self._open[key] -= 1
        if not self._open[key]:
            del self._open[key]


class _Stream(Response):
    """Sends what a generator yields; closes it whatever ends the response: its end, the reader's, the key's, ours."""

    def __init__(
        self,
        streams: Streams,
        content: AsyncGenerator[bytes],
        media_type: str,
        key: str,
        still_good: Callable[[], bool],
    ) -> None:
        self.status_code = 200
        self.media_type = media_type
        self.background = None
        self.init_headers({"Cache-Control": "no-store", "X-Accel-Buffering": "no"})
        del self.headers["content-length"]
        self._streams = streams
        self._content = content
        self._key = key
        self._still_good = still_good

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self._streams.took(self._key)
        sending = asyncio.create_task(self._send(scope, send))
        ends = [asyncio.create_task(self._gone(receive)), asyncio.create_task(self._no_longer_good())]
        ends.append(asyncio.create_task(self._closing()))
        try:
            await asyncio.wait([sending, *ends], return_when=asyncio.FIRST_COMPLETED)
            if sending.done() and (error := sending.exception()) is not None:
                # The answer has begun, so all that is left is to break it off: the reader must not take it for whole.
                raise error
            sending.cancel()
            await asyncio.wait([sending])
            await send({"type": "http.response.body", "body": b"", "more_body": False})
        finally:
            for task in (sending, *ends):
                task.cancel()
            await asyncio.wait([sending, *ends])
            await self._content.aclose()
            self._streams.left(self._key)

    async def _send(self, scope: Scope, send: Send) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        if scope["method"] == "HEAD":
            return
        async with aclosing(self._content):
            async for part in self._content:
                if part:
                    await send({"type": "http.response.body", "body": part, "more_body": True})

    async def _gone(self, receive: Receive) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass

    async def _no_longer_good(self) -> None:
        while self._still_good():
            await asyncio.sleep(KEY_LOOK_S)

    async def _closing(self) -> None:
        await self._streams.closing.wait()


async def or_silence(
    batches: AsyncGenerator[list[T]], stop: "asyncio.Task[None] | None" = None, *, silence_s: float = KEEP_ALIVE_S
) -> AsyncGenerator[list[T] | None]:
    """Yield each batch, None after every `silence_s` without one; end with the batches, or when `stop` is done."""
    following: asyncio.Task[list[T]] = asyncio.create_task(_next(batches))
    try:
        while stop is None or not stop.done():
            waited_for: set[asyncio.Task[list[T]] | asyncio.Task[None]] = {following}
            if stop is not None:
                waited_for.add(stop)
            await asyncio.wait(waited_for, timeout=silence_s, return_when=asyncio.FIRST_COMPLETED)
            if following.done():
                try:
                    batch = following.result()
                except StopAsyncIteration:
                    return
                yield batch
                following = asyncio.create_task(_next(batches))
            elif stop is None or not stop.done():
                yield None
    finally:
        following.cancel()
        with suppress(asyncio.CancelledError, StopAsyncIteration):
            await following


async def _next(batches: AsyncGenerator[list[T]]) -> list[T]:
    return await anext(batches)
