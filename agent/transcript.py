"""The agent's own record of its conversation: waited for, so that a checkpoint holds the last results it speaks of."""

import asyncio
import os
from collections.abc import Callable, Sequence

WAIT_S = 2.0
POLL_S = 0.01
"""In 18 of 18 runs of Claude Code the result was there within 10 ms of its request being held."""
TAIL_BYTES_MAX = 4 * 1024 * 1024
RESULTS = (b"tool_result", b"functionResponse", b"tool_call_id", b'"role":"tool"', b'"role": "tool"')
"""What the lines of results have in them, whatever the CLI: Anthropic's, Gemini's and OpenAI's forms."""


class Transcript:
    """What has been added to one conversation since it was first looked at, whole lines only."""

    def __init__(self, open_file: Callable[[], int | None]) -> None:
        self._open_file = open_file
        self._offset = -1
        self._rest = b""

    def missing(self, tool_use_ids: set[bytes]) -> set[bytes]:
        """Read on; return which of these have no result in what was read."""
        for line in self._lines():
            if any(mark in line for mark in RESULTS):
                tool_use_ids = {each for each in tool_use_ids if each not in line}
        return tool_use_ids

    def _lines(self) -> list[bytes]:
        fd = self._open_file()
        if fd is None:
            return []
        with os.fdopen(fd, "rb") as file:
            if self._offset < 0:
                self._offset = max(0, os.fstat(fd).st_size - TAIL_BYTES_MAX)
            file.seek(self._offset)
            data = file.read(TAIL_BYTES_MAX)
        self._offset += len(data)
        *lines, self._rest = (self._rest + data).split(b"\n")
        return lines


async def has_results(opens: Sequence[Callable[[], int | None]], tool_use_ids: Sequence[str]) -> bool:
    """Wait until one of these files holds the results of all these tool uses, at most `WAIT_S`."""
    loop = asyncio.get_running_loop()
    until_s = loop.time() + WAIT_S
    transcripts = [(Transcript(each), {one.encode() for one in tool_use_ids}) for each in opens]
    while True:
        transcripts = [(transcript, transcript.missing(left)) for transcript, left in transcripts]
        if not transcripts or any(not left for _, left in transcripts):
            return True
        if loop.time() > until_s:
            return False
        await asyncio.sleep(POLL_S)
