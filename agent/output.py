"""The runner's output on its way to the hub: whole lines, valid UTF-8, escaped, numbered, bounded in every direction.

Reading never waits for the hub. What comes faster than `OUTPUT_BYTES_PER_S_MAX`, or does not fit the bounded buffer
while the hub is away, is dropped, and a line of our own says how much.
"""

import asyncio
import contextlib
import json
import re
import secrets
from collections import deque
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Literal, NotRequired, TypedDict

import structlog
from nats.errors import Error

from agent.connection import Connection
from events import address
from events.agent import OUTPUT_BYTES_PER_S_MAX, OUTPUT_LINE_BYTES_MAX, AgentSpec

FLUSH_S = 0.05
"""The first line goes at once; those that follow closely wait this long for company."""
BATCH_BYTES_MAX = 131_072
BUFFER_BYTES_MAX = 1_048_576
ACK_DEADLINE_S = 2.0
RETRY_S = 0.2
LINE_OVERHEAD_BYTES = 64
"""What a line costs at least: a flood of empty lines is a flood."""

Source = Literal["stdout", "stderr", "agent", "raw"]
"""`raw` is an agent's own stream as it came; what people read of it is `stdout`."""
_CONTROL = re.compile("[\x00-\x08\x0a-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff]")
"""C0 but tab, DEL, C1, and what turns the direction of text or breaks lines: a watcher's terminal is not the runner's."""

log = structlog.get_logger()


class Line(TypedDict):
    """One line on the wire; `s` its source, `t` its text."""

    n: int
    s: Source
    t: str
    at: str
    more: NotRequired[bool]
    """The line was too long for one: it goes on with the next of its source. Said of `raw` alone."""


def escape(text: str) -> str:
    """Make control characters visible: ESC becomes the four characters ``\\x1b``."""
    return _CONTROL.sub(lambda found: _visible(ord(found[0])), text)


def escape_json(text: str) -> str:
    """Make control characters visible so that JSON stays the same JSON: DEL becomes the six characters ``\\u007f``."""
    return _CONTROL.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def _visible(code: int) -> str:
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"


def pieces(raw: bytes, escaped: Callable[[str], str] = escape) -> list[str]:
    """Decode one line; return it escaped, in pieces of at most `OUTPUT_LINE_BYTES_MAX` bytes of UTF-8."""
    rest = escaped(raw.decode(errors="replace")).encode()
    found: list[str] = []
    while len(rest) > OUTPUT_LINE_BYTES_MAX:
        cut = OUTPUT_LINE_BYTES_MAX
        while rest[cut] & 0xC0 == 0x80:
            cut -= 1
        found.append(rest[:cut].decode())
        rest = rest[cut:]
    return [*found, rest.decode()]


class Assembler:
    """Turns what a pipe gives into lines; ends at LF, CR LF or a lone CR; holds at most one unfinished line."""

    def __init__(self, line_bytes_max: int = OUTPUT_LINE_BYTES_MAX) -> None:
        self._rest = b""
        self._line_bytes_max = line_bytes_max

    @property
    def held_bytes(self) -> int:
        return len(self._rest)

    def feed(self, data: bytes) -> list[bytes]:
        held_cr = data.endswith(b"\r")
        whole = (self._rest + (data[:-1] if held_cr else data)).replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        *lines, self._rest = whole.split(b"\n")
        while len(self._rest) > self._line_bytes_max:
            cut = _character_boundary(self._rest, self._line_bytes_max)
            lines.append(self._rest[:cut])
            self._rest = self._rest[cut:]
        if held_cr:
            self._rest += b"\r"
        return lines

    def end(self) -> list[bytes]:
        rest, self._rest = self._rest.removesuffix(b"\r"), b""
        return [rest] if rest else []


def _character_boundary(data: bytes, at: int) -> int:
    """The last place at or before `at` that does not cut a UTF-8 character (at most three bytes back)."""
    for back in range(4):
        if data[at - back] & 0xC0 != 0x80:
            return at - back
    return at


class Output:
    """Bounded buffer of lines and the task that publishes them, one acknowledged batch at a time."""

    def __init__(self, spec: AgentSpec, connection: Connection) -> None:
        self._subject = address.output(spec.project, spec.machine_id, spec.epoch)
        self._ids = f"{spec.machine_id}.{spec.epoch}.{secrets.token_hex(8)}"
        self._connection = connection
        self._lines: deque[Line] = deque()
        self._bytes = 0
        self._next = 1
        self._dropped_bytes = 0
        self._tokens = float(OUTPUT_BYTES_PER_S_MAX)
        self._filled_at_s = asyncio.get_running_loop().time()
        self._some = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()

    @property
    def flooded(self) -> bool:
        """Output is being dropped: whoever reads may as well read slower."""
        return self._dropped_bytes > 0

    def take(self, source: Source, raw: bytes) -> None:
        """Take one line; dropped when there is no room for it."""
        cost_bytes = len(raw) + LINE_OVERHEAD_BYTES
        if not self._afford(cost_bytes):
            self._dropped_bytes += len(raw) + 1
            return
        self._say_dropped()
        *first, last = pieces(raw, escape_json if source == "raw" else escape)
        for piece in first:
            self._append(source, piece, more=source == "raw")
        self._append(source, last)

    def end(self) -> None:
        """Nothing comes any more for now: say what was dropped."""
        self._say_dropped()

    def say(self, text: str) -> None:
        """Add a line of the agent's own; never dropped."""
        for piece in pieces(text.encode()):
            self._append("agent", piece)

    async def run(self) -> None:
        while True:
            await self._some.wait()
            await self._publish(self._batch())
            if not self._lines:
                self._some.clear()
                self._idle.set()
            await asyncio.sleep(FLUSH_S)

    async def all_published(self, deadline_s: float) -> bool:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(deadline_s):
                await self._idle.wait()
                return True
        return False

    def _afford(self, cost_bytes: int) -> bool:
        now_s = asyncio.get_running_loop().time()
        earned = (now_s - self._filled_at_s) * OUTPUT_BYTES_PER_S_MAX
        self._tokens, self._filled_at_s = min(OUTPUT_BYTES_PER_S_MAX, self._tokens + earned), now_s
        least = OUTPUT_BYTES_PER_S_MAX / 8 if self._dropped_bytes else 0
        if self._tokens - cost_bytes < least or self._bytes + cost_bytes > BUFFER_BYTES_MAX:
            return False
        self._tokens -= cost_bytes
        return True

    def _say_dropped(self) -> None:
        if self._dropped_bytes:
            dropped, self._dropped_bytes = self._dropped_bytes, 0
            self.say(f"… {dropped} bytes dropped")

    def _append(self, source: Source, text: str, *, more: bool = False) -> None:
        at = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        line: Line = {"n": self._next, "s": source, "t": text, "at": at}
        if more:
            line["more"] = True
        self._lines.append(line)
        self._bytes += len(text.encode()) + LINE_OVERHEAD_BYTES
        self._next += 1
        self._idle.clear()
        self._some.set()

    def _batch(self) -> list[Line]:
        batch: list[Line] = []
        size_bytes = 0
        while self._lines and size_bytes < BATCH_BYTES_MAX:
            line = self._lines.popleft()
            size_bytes += len(line["t"].encode()) + LINE_OVERHEAD_BYTES
            batch.append(line)
        return batch

    async def _publish(self, batch: list[Line]) -> None:
        """Publish until acknowledged: the stream drops the second copy by its id."""
        body = json.dumps(batch if len(batch) > 1 else batch[0], ensure_ascii=False, separators=(",", ":")).encode()
        headers = {"Nats-Msg-Id": f"{self._ids}.{batch[0]['n']}"}
        while True:
            await self._connection.connected()
            try:
                await self._connection.stream.publish(self._subject, body, timeout=ACK_DEADLINE_S, headers=headers)
                break
            except (Error, OSError, TimeoutError) as reason:
                log.info("output.not_acknowledged", reason=str(reason) or repr(reason))
                await asyncio.sleep(RETRY_S)
        self._bytes -= sum(len(line["t"].encode()) + LINE_OVERHEAD_BYTES for line in batch)
