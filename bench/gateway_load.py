"""The clients of bench.gateway: connections that stay, requests made beforehand, answers read with as little work as can be."""

import asyncio
import json
import os
import statistics
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

from bench.query import cpu_s

MODEL = "bench-model"
MACHINES = 16
STREAMS_OPEN = 200
ANSWER_S = 60.0
PROMPT = "x" * 40_000


class Answer(asyncio.Protocol):
    """One kept connection; reads answers with as little work as can be, so that the proxy is what is measured."""

    def __init__(self) -> None:
        self._transport: asyncio.Transport | None = None
        self._done: asyncio.Future[bytes] | None = None
        self._seen = b""
        self._left = -1
        self.first_at = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def ask(self, request: bytes) -> "asyncio.Future[bytes]":
        assert self._transport is not None
        self._seen, self._left, self.first_at = b"", -1, 0.0
        self._done = asyncio.get_running_loop().create_future()
        self._transport.write(request)
        return self._done

    def data_received(self, data: bytes) -> None:
        self._seen += data
        head = self._seen.find(b"\r\n\r\n")
        if head < 0 or self._done is None or self._done.done():
            return
        if not self.first_at and len(self._seen) > head + 4:
            self.first_at = time.perf_counter()
        if self._left < 0:
            named = self._seen[:head].lower().partition(b"content-length: ")[2]
            self._left = head + 4 + int(named.partition(b"\r\n")[0]) if named else 0
        if len(self._seen) >= self._left if self._left else self._seen.endswith(b"0\r\n\r\n"):
            self._done.set_result(self._seen)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._done is not None and not self._done.done():
            self._done.set_exception(exc or ConnectionResetError("the proxy closed the connection"))


@dataclass(frozen=True, slots=True)
class Run:
    """What one run saw of one variant."""

    p50_ms: float
    first_ms: float
    per_s: float
    cpu_ms: float
    """Of the proxy's own process, by call, at 16 at once."""


@dataclass(slots=True)
class Variant:
    """A way to the provider."""

    name: str
    port: int
    pid: int
    tokens: list[str]
    path: str = "/v1/messages"
    runs: dict[str, list[Run]] = field(default_factory=dict[str, list[Run]])

    def request(self, *, stream: bool, number: int = 0, hold: bool = False) -> bytes:
        asked: dict[str, object] = {
            "model": MODEL, "max_tokens": 1_000, "stream": stream, "messages": [{"role": "user", "content": PROMPT}],
        }  # fmt: skip
        if hold:
            asked["metadata"] = {"user_id": "hold"}
        body = json.dumps(asked, separators=(",", ":")).encode()
        token = self.tokens[number % len(self.tokens)]
        return (
            f"POST {self.path} HTTP/1.1\r\nHost: hub\r\nAuthorization: Bearer {token}\r\nx-api-key: {token}\r\n"
            f"anthropic-version: 2023-06-01\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        ).encode() + body


async def connected(variant: Variant) -> Answer:
    _, answer = await asyncio.get_running_loop().create_connection(Answer, "127.0.0.1", variant.port)
    return answer


async def call(answer: Answer, request: bytes) -> tuple[float, float]:
    """Return how long it took until the first byte of the body and until the last one, in seconds."""
    began = time.perf_counter()
    async with asyncio.timeout(ANSWER_S):
        said = await answer.ask(request)
    ended = time.perf_counter()
    assert said.startswith(b"HTTP/1.1 200"), said[:400]
    assert b"output_tokens" in said, said[:400]
    return answer.first_at - began, ended - began


async def measured(variant: Variant, seconds: float, *, stream: bool) -> Run:
    alone = await connected(variant)
    request = variant.request(stream=stream)
    spans: list[tuple[float, float]] = []
    end = time.perf_counter() + seconds / 2
    while time.perf_counter() < end or len(spans) < 5:
        spans.append(await call(alone, request))
    count = 0
    end = time.perf_counter() + seconds

    async def client(number: int) -> None:
        nonlocal count
        answer, asked = await connected(variant), variant.request(stream=stream, number=number)
        while time.perf_counter() < end:
            await call(answer, asked)
            count += 1

    began, used = time.perf_counter(), cpu_s(variant.pid)
    await asyncio.gather(*(client(number) for number in range(MACHINES)))
    took = time.perf_counter() - began
    return Run(
        statistics.median(whole for _, whole in spans) * 1e3,
        statistics.median(first for first, _ in spans) * 1e3,
        count / took,
        (cpu_s(variant.pid) - used) / count * 1e3,
    )


async def open_streams(variant: Variant, stub_port: int) -> tuple[float, float]:
    """Return the process's memory before and while `STREAMS_OPEN` streams are open through it, MiB."""
    before = rss_mib(variant.pid)
    answers = [await connected(variant) for _ in range(STREAMS_OPEN)]
    asked = [
        answer.ask(variant.request(stream=True, number=number, hold=True)) for number, answer in enumerate(answers)
    ]
    async with asyncio.timeout(ANSWER_S):
        while not all(answer.first_at for answer in answers):
            await asyncio.sleep(0.05)
    during = rss_mib(variant.pid)
    reader, writer = await asyncio.open_connection("127.0.0.1", stub_port)
    writer.write(b"GET /release HTTP/1.1\r\nHost: stub\r\n\r\n")
    await reader.readuntil(b"\r\n\r\n")
    writer.close()
    await asyncio.gather(*asked)
    return before, during


def rss_mib(pid: int) -> float:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20
