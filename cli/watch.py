"""Watching: events and output as they come, over one HTTP response each."""

import json
import time
from collections.abc import Iterator

from cli.exits import CliError, Exit
from cli.hub import Hub, Json, segment

RECONNECTS_MAX = 20
RECONNECT_S = 0.5


def events(hub: Hub, after: int, **filters: object) -> Iterator[Json]:
    """Yield events from the log, those after `after` first, then as they come; goes on where it was when cut off.

    Raises:
        CliError: The hub stayed away for `RECONNECTS_MAX` attempts.
    """
    failures = 0
    while True:
        try:
            with hub.stream("/api/v1/events/stream", after=after, **filters) as lines:
                for line in lines:
                    if line.startswith(b"data: "):
                        event: Json = json.loads(line[6:])
                        after, failures = event["seq"], 0
                        yield event
        except CliError as error:
            failures += 1
            if error.exit_code is not Exit.UNREACHABLE or failures > RECONNECTS_MAX:
                raise
            time.sleep(RECONNECT_S)


def until(hub: Hub, after: int, types: frozenset[str], wait_s: float, **filters: object) -> Json:
    """Return the first event of one of these types.

    Raises:
        CliError: It did not come within `wait_s`; streams say something every 15 s, so the check is about that coarse.
    """
    deadline = time.monotonic() + wait_s
    with hub.stream("/api/v1/events/stream", after=after, **filters) as lines:
        for line in lines:
            if line.startswith(b"data: "):
                event: Json = json.loads(line[6:])
                if event["type"] in types:
                    return event
            if time.monotonic() > deadline:
                break
    raise CliError(Exit.DEADLINE, f"none of {', '.join(sorted(types))} came within {wait_s:g} s")


def output(hub: Hub, machine_id: str, *, follow: bool, after: int = 0, raw: bool = False) -> Iterator[Json]:
    """Yield a machine's output lines `{"seq", "epoch", "n", "s", "t", "at"}`; with `follow`, until the machine ends.

    Args:
        raw: The agent's own stream instead of what people read; a line with `more` goes on in the next.
    """
    path = f"/api/v1/machines/{segment(machine_id)}/logs"
    with hub.stream(path, follow=1 if follow else None, after=after or None, raw=1 if raw else None) as lines:
        for line in lines:
            if line:
                yield json.loads(line)
