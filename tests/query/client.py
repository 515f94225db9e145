"""An HTTP client of a few lines that can also say what no good client would."""

import asyncio
import json
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode, urlsplit

TIMEOUT_S = 20.0


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:  # noqa: ANN401  # tests look into it field by field
        return json.loads(self.body)

    @property
    def code(self) -> str:
        return str(self.json["code"])


@dataclass(frozen=True, slots=True)
class Client:
    """Speaks for one key."""

    url: str
    key: str = ""

    def as_(self, key: str) -> "Client":
        return Client(self.url, key)

    async def get(self, path: str, headers: dict[str, str] | None = None, **parameters: object) -> Answer:
        given = {name: str(value) for name, value in parameters.items() if value is not None}
        return await self.ask("GET", f"{path}?{urlencode(given)}" if given else path, headers=headers)

    async def items(self, path: str, **parameters: object) -> list[Any]:
        """The items of a page."""
        answer = await self.get(path, None, **parameters)
        assert answer.status == 200, answer.body
        return answer.json["items"]

    async def post(
        self, path: str, body: object, headers: dict[str, str] | None = None, *, method: str = "POST"
    ) -> Answer:
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        return await self.ask(method, path, content, headers)

    async def ask(
        self, method: str, target: str, body: bytes | None = None, headers: dict[str, str] | None = None
    ) -> Answer:
        async with asyncio.timeout(TIMEOUT_S), self.open(method, target, body, headers) as (status, fields, reader):
            if method == "HEAD" or status == 304:
                return Answer(status, fields, b"")
            if fields.get("transfer-encoding") == "chunked":
                return Answer(status, fields, b"".join([chunk async for chunk in chunks(reader)]))
            return Answer(status, fields, await reader.readexactly(int(fields.get("content-length", "0"))))

    @asynccontextmanager
    async def open(
        self, method: str, target: str, body: bytes | None = None, headers: dict[str, str] | None = None
    ) -> AsyncGenerator[tuple[int, dict[str, str], asyncio.StreamReader]]:
        """Send a request; gives status, headers and the rest of the answer, unread."""
        where = urlsplit(self.url)
        reader, writer = await asyncio.open_connection(where.hostname, where.port, limit=1 << 22)
        try:
            fields = {"Host": "hub", "Connection": "close", **(headers or {})}
            if self.key:
                fields["Authorization"] = f"Bearer {self.key}"
            if body is not None:
                fields["Content-Length"] = str(len(body))
            head = f"{method} {target} HTTP/1.1\r\n" + "".join(f"{n}: {v}\r\n" for n, v in fields.items()) + "\r\n"
            writer.write(head.encode("latin-1") + (body or b""))
            await writer.drain()
            status_line, *lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
            found = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines if line)}
            yield int(status_line.split(" ")[1]), found, reader
        finally:
            writer.close()

    @asynccontextmanager
    async def stream(self, path: str, headers: dict[str, str] | None = None) -> AsyncGenerator["Stream"]:
        async with self.open("GET", path, None, headers) as (status, fields, reader):
            yield Stream(status, fields, reader)


class Stream:
    """A response that goes on."""

    def __init__(self, status: int, headers: dict[str, str], reader: asyncio.StreamReader) -> None:
        self.status = status
        self.headers = headers
        self._chunks = chunks(reader)
        self._rest = b""

    async def line(self, timeout_s: float = TIMEOUT_S) -> bytes | None:
        """The next line; None: the response has ended."""
        async with asyncio.timeout(timeout_s):
            while b"\n" not in self._rest:
                chunk = await anext(self._chunks, None)
                if chunk is None:
                    return None
                self._rest += chunk
        line, _, self._rest = self._rest.partition(b"\n")
        return line

    async def event(self) -> Any:  # noqa: ANN401  # as above
        """The next server-sent event's data."""
        while (line := await self.line()) is not None:
            if line.startswith(b"data: "):
                return json.loads(line[6:])
        raise AssertionError("the stream has ended")


async def chunks(reader: asyncio.StreamReader) -> AsyncGenerator[bytes]:
    while size := int(await reader.readline() or b"0", 16):
        yield await reader.readexactly(size)
        await reader.readexactly(2)
