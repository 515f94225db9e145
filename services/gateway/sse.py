"""Server-sent events, read beside the bytes that are passed on: incremental, bounded, and not impressed by garbage."""

import re
from typing import NamedTuple

EVENT_BYTES_MAX = 4 * 1024 * 1024
"""A longer event is passed on, and not read."""
_END = re.compile(rb"\r\n\r\n|\n\n|\r\r")


class SseEvent(NamedTuple):
    """One event; it ends at byte `end` of the stream and began at `start`."""

    data: bytes
    start: int
    end: int


class SseReader:
    """Cuts a stream of bytes, however it arrives, into events."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._start = 0
        self._skipping = False
        self.skipped = 0
        """Events that were too long to be read."""

    @property
    def position(self) -> int:
        """Where the last whole event ended."""
        return self._start

    def feed(self, chunk: bytes) -> list[SseEvent]:
        """Take bytes in. Returns the events that they complete."""
        buffer = self._buffer
        looked = max(0, len(buffer) - 3)
        buffer += chunk
        events: list[SseEvent] = []
        begin = 0
        for found in _END.finditer(buffer, looked):
            end = found.end()
            if self._skipping:
                self._skipping = False
            else:
                data = _data(bytes(buffer[begin : found.start()]))
                events.append(SseEvent(data, self._start, self._start + end - begin))
            self._start += end - begin
            begin = end
        if begin:
            del buffer[:begin]
        if len(buffer) > EVENT_BYTES_MAX:
            self.skipped += not self._skipping
            self._skipping = True
            dropped = len(buffer) - 3
            self._start += dropped
            del buffer[:dropped]
        return events


def _data(event: bytes) -> bytes:
    if b"\r" not in event:
        if event.startswith(b"data: ") and b"\n" not in event:
            return event[6:]
        if event.startswith(b"event:") and event.count(b"\n") == 1:  # as Anthropic says all of them
            at = event.index(b"\n") + 1
            return event[at + 6 :] if event.startswith(b"data: ", at) else _data_of_lines(event)
    return _data_of_lines(event)


def _data_of_lines(event: bytes) -> bytes:
    lines = [line[5:].removeprefix(b" ") for line in event.splitlines() if line.startswith(b"data:")]
    return b"\n".join(lines)
