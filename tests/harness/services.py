"""One service of ours in a process of its own, as a container runs it: to be killed."""

import asyncio
import os
import sys
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

from tests.harness.waiting import eventually

ROOT = Path(__file__).resolve().parents[2]
START_S = 60.0
"""It imports for some seconds, on a machine that is busy with other tests."""


@asynccontextmanager
async def service_process(
    name: str, nats_url: str, answers: Callable[[], Awaitable[bool]], **settings: str
) -> AsyncGenerator[asyncio.subprocess.Process]:
    """Run `python -m services.<name>` inside the block, which begins when it answers; killed at its end.

    Args:
        settings: By name without `AUTOVIBE_`, in lower case.
    """
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "AUTOVIBE_NATS_URL": nats_url,
        "AUTOVIBE_HEALTH_PORT": "0",
        "AUTOVIBE_LOG_LEVEL": "warning",
        **{f"AUTOVIBE_{key.upper()}": value for key, value in settings.items()},
    }
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", f"services.{name}", cwd=ROOT, env=environment, stdout=asyncio.subprocess.DEVNULL
    )

    async def is_there() -> bool:
        assert process.returncode is None, f"{name} ended by itself"
        return await answers()

    try:
        await eventually(is_there, timeout_s=START_S)
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def listens(port: int) -> bool:
    """Whether somebody on this host takes connections there."""
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError:
        return False
    writer.close()
    return True
