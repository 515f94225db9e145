"""Answers that are still true: a read is kept until the read model moves on, so what is asked again costs no database.

Sound because an answer is filed under the position that was known *before* it was read: it contains at least that.
"""

import hashlib
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Hashable
from dataclasses import dataclass

from services.query.position import Position

ENTRIES_MAX = 1_000
ENTRY_BYTES_MAX = 256 * 1024
BYTES_MAX = 32 * 1024 * 1024
AGE_S_MAX = 5.0
"""A rebuild swaps tables without moving the position; what it corrected is seen after this long at the latest."""


@dataclass(frozen=True, slots=True)
class Answer:
    """A JSON body and its entity tag."""

    body: bytes
    tag: str
    position: int
    read_at_s: float


class Answers:
    """Bounded in entries and bytes; what was used longest ago goes first."""

    def __init__(self, position: Position, *, entries_max: int = ENTRIES_MAX) -> None:
        self._position = position
        self._entries_max = entries_max
        self._kept: OrderedDict[Hashable, Answer] = OrderedDict()
        self._bytes = 0

    async def get(self, key: Hashable, read: Callable[[], Awaitable[bytes]]) -> Answer:
        """Return what is kept under `key`, or read it. The key must name everything that the body depends on, the
        reader's projects above all."""
        now_s = time.monotonic()
        seq, known = self._position.seq, self._position.listening
        kept = self._kept.get(key)
        if kept is not None and known and kept.position == seq and now_s - kept.read_at_s < AGE_S_MAX:
            self._kept.move_to_end(key)
            return kept
        body = await read()
        tag = f'"{hashlib.blake2b(body, digest_size=12).hexdigest()}"'
        answer = Answer(body, tag, seq, now_s)
        if known and self._entries_max and len(body) <= ENTRY_BYTES_MAX:
            self._keep(key, answer)
        return answer

    def _keep(self, key: Hashable, answer: Answer) -> None:
        old = self._kept.pop(key, None)
        self._kept[key] = answer
        self._bytes += len(answer.body) - (len(old.body) if old else 0)
        while len(self._kept) > self._entries_max or self._bytes > BYTES_MAX:
            _, gone = self._kept.popitem(last=False)
            self._bytes -= len(gone.body)
