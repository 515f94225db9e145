"""No room: the log at its own limit, and the disk below it full. Who asks is told so, and nothing acknowledged is lost."""

import asyncio
import json
import os
import subprocess
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import nats
import nats.errors
import pytest

from events.words import Outcome
from tests.harness import eventually, short_directory
from tests.harness.hub import RunningHub, running_hub
from tests.harness.invariants import at_work, proved
from tests.harness.knocking import ANSWER_S, COUNTS, Knocks, knocking

pytestmark = pytest.mark.timeout(240)

MIB = 1024 * 1024
DISK_MIB = 400
"""Room for an empty PostgreSQL with its log of 1 to 5 segments, and for what is written meanwhile."""
WORDS = "words " * 600


async def knocked_until_refused(hub: RunningHub, knocks: Knocks) -> dict[str, str]:
    """Say things of the project until the door has no room; return what it says then."""
    client = await nats.connect(hub.context.nats_url, user_credentials=hub.context.creds)
    try:
        async with asyncio.timeout(60):
            for count in range(100_000):
                body = json.dumps({"description": f"{count} {WORDS}"}).encode()
                reply = await client.request("ask.shop.project.shop.ProjectUpdated", body, timeout=ANSWER_S)
                if (reply.headers or {}).get("Nats-Service-Error-Code"):
                    return json.loads(reply.data)
                said = json.loads(reply.data)
                knocks.note("shop.project.shop.ProjectUpdated", said)
    finally:
        await client.close()
    raise AssertionError("the log took everything")


async def test_a_log_at_its_limit_refuses_in_words_and_goes_on_when_it_may_grow() -> None:
    settings = {"AUTOVIBE_LOG_BYTES": str(MIB // 2)}
    async with running_hub(settings=settings) as hub, knocking(hub) as knocks:
        await knocks.project("shop")
        machine = await knocks.machine("shop", COUNTS)
        await at_work(hub, [machine])
        refused = await knocked_until_refused(hub, knocks)
        assert refused["code"] == "unavailable"
        assert "log is full" in refused["message"]
        assert "AUTOVIBE_LOG_BYTES" in refused["message"]
        waiting = "00000000-0000-4000-8000-000000000001"
        await knocks.publish("shop", waiting, {"goal": "true", "machine_type": "shell"})
        assert await hub.stop() == 0
        hub.settings["AUTOVIBE_LOG_BYTES"] = str(64 * MIB)
        await hub.start()
        story = await proved(hub, knocks, [machine, waiting])
        assert {ended.outcome for each in (machine, waiting) if (ended := story.ended(each))} == {Outcome.SUCCEEDED}


@contextmanager
def small_disk() -> Generator[Path]:
    """Mount a filesystem of `DISK_MIB`."""
    with short_directory() as directory:
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={DISK_MIB}m", "small", directory], check=True)
        try:
            yield directory
        finally:
            subprocess.run(["umount", "--lazy", directory], check=True)


def fill(ballast: Path) -> None:
    """Take every byte that is left, again and again until nothing was freed meanwhile."""
    with ballast.open("ab", buffering=0) as file:
        for size in (MIB, 4096, 1):
            try:
                while True:
                    file.write(bytes(size))
            except OSError:
                continue


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount a small disk; the limit above is tried by everybody")
async def test_a_full_disk_is_said_and_when_there_is_space_again_the_hub_heals_by_itself() -> None:
    with small_disk() as disk:
        async with running_hub(data=disk / "data") as hub, knocking(hub) as knocks:
            await knocks.project("shop")
            machine = await knocks.machine("shop", COUNTS)
            await at_work(hub, [machine])
            ballast = disk / "ballast"
            fill(ballast)
            refused = await _said_when_full(hub, knocks, ballast)
            assert refused["code"] == "unavailable"
            assert "log is full" in refused["message"]
            assert "no space left" in refused["message"]
            ballast.unlink()
            later = await knocks.machine("shop", "echo there is space again")
            story = await proved(hub, knocks, [machine, later])
            ended = story.ended(later)
            assert ended is not None
            assert ended.outcome is Outcome.SUCCEEDED
            assert await hub.stop() == 0


async def _said_when_full(hub: RunningHub, knocks: Knocks, ballast: Path) -> dict[str, str]:
    """Return the door's refusal while the disk is kept full."""

    async def level() -> dict[str, str]:
        fill(ballast)
        try:
            said = await knocked_until_refused(hub, knocks)
        except (TimeoutError, nats.errors.Error) as late:
            raise AssertionError(f"no answer: {late!r}") from late
        assert "no space left" in said["message"], said
        return said

    return await eventually(level, timeout_s=60, poll_s=0.2)
