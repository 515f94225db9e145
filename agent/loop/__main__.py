"""Reads the task, talks until it is done or ended, and says how: exit code 0 done, 1 failed, 130 interrupted."""

import asyncio
import json
import logging
import signal
import sys

from agent.loop.task import Task
from agent.loop.words import Words


def main() -> int:
    # It warns of each child that the toolset has waited for by itself, on the stream that people read.
    logging.getLogger("asyncio").setLevel(logging.ERROR)
    words = Words(sys.stdout)
    task = Task.read(json.load(sys.stdin))
    try:
        return asyncio.run(_talk(task, words))
    except KeyboardInterrupt:
        return 130


async def _talk(task: Task, words: Words) -> int:
    talking = asyncio.current_task()
    assert talking is not None
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, talking.cancel)
    from agent.loop.talk import talk  # noqa: PLC0415 -- two seconds of imports, after the signals are heard

    try:
        return await talk(task, words)
    except asyncio.CancelledError:
        words.end("interrupted", "it was told to stop", is_error=True)
        return 130


if __name__ == "__main__":
    sys.exit(main())
