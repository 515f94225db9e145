"""The answer to a client: a status while nothing was said, and signs of life while a stream is held for long."""

import asyncio
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager

from aiohttp import web

from services.gateway.context import Dialect
from services.gateway.refusals import Refusal

_PINGS = {Dialect.ANTHROPIC: b'event: ping\ndata: {"type": "ping"}\n\n', Dialect.OPENAI: b": keepalive\n\n"}

_STREAM = {"content-type": "text/event-stream; charset=utf-8", "cache-control": "no-cache"}


class ClientGone(Exception):
    """Nobody hears the answer any more."""


class Reply:
    """What is said to one client. Until the first byte an answer may still have any status."""

    def __init__(self, request: web.Request, dialect: Dialect) -> None:
        self._request = request
        self._dialect = dialect
        self._stream: web.StreamResponse | None = None
        self._speaking = asyncio.Lock()

    @property
    def has_begun(self) -> bool:
        return self._stream is not None

    async def begin(self, status: int, headers: Mapping[str, str]) -> None:
        """Send the status and headers; nothing where signs of life have already begun the answer.

        Raises:
            ClientGone: As all that is said here.
        """
        if self._stream is not None:
            return
        stream = web.StreamResponse(status=status, headers=headers)
        try:
            await stream.prepare(self._request)
        except ConnectionError as error:
            raise ClientGone from error
        self._stream = stream

    async def write(self, piece: bytes) -> None:
        assert self._stream is not None, "an answer is begun before it is written"
        try:
            await self._stream.write(piece)
        except ConnectionError as error:
            raise ClientGone from error

    async def end(self) -> web.StreamResponse:
        assert self._stream is not None, "an answer is begun before it ends"
        try:
            await self._stream.write_eof()
        except ConnectionError as error:
            raise ClientGone from error
        return self._stream

    def cut(self) -> None:
        """Break the connection off: what was said is not the whole answer."""
        if self._request.transport is not None:
            self._request.transport.abort()

    async def refuse(self, refusal: Refusal) -> web.StreamResponse:
        """Say that the call is not made: by status, or within the stream where that has begun."""
        if self._stream is None:
            headers = {"content-type": "application/json", **refusal.headers()}
            return web.Response(status=refusal.status, body=refusal.body(self._dialect), headers=headers)
        await self.write(refusal.event(self._dialect))
        return await self.end()

    @asynccontextmanager
    async def kept_alive(self, after_s: float, every_s: float) -> AsyncGenerator[None]:
        """Begin a stream and say that we live, while the body takes longer than `after_s`."""
        beating: list[asyncio.Task[None]] = []
        loop = asyncio.get_running_loop()
        begin = loop.call_later(after_s, lambda: beating.append(loop.create_task(self._beat(every_s))))
        try:
            yield
        finally:
            begin.cancel()
            for beats in beating:
                async with self._speaking:  # a sign of life is said whole
                    beats.cancel()
                await asyncio.wait([beats])

    async def _beat(self, every_s: float) -> None:
        try:
            while True:
                async with self._speaking:
                    await self.begin(200, _STREAM)
                    await self.write(_PINGS[self._dialect])
                await asyncio.sleep(every_s)
        except ClientGone:
            return  # the handler is cancelled by the server then
