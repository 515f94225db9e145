"""A hub that has the real agents, and the rehearsal model for its provider."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import asdict
from pathlib import Path

from tests.harness.hub import RunningHub
from tests.harness.rehearsed import Provider
from tests.harness.rehearsed import rehearsed_hub as any_rehearsed_hub
from tests_clis.conftest import Installed

__all__ = ["AFTER", "BEFORE", "GOAL", "LOOKS", "Provider", "rehearsed_hub"]

GOAL = "Have the greeting reach the whole world"
"""It names no file: Aider takes those that are named at once, and is to ask."""
BEFORE = 'print("hello")\n'
AFTER = 'print("hello, world")\n'
LOOKS = "I look at greeting.py before I change it."
SCRIPT = f"""
name = "greeting"
match = "{GOAL}"

[[turns]]
say = "{LOOKS}"
do = [{{ read = "greeting.py" }}]

[[turns]]
say = "Now it greets the world."
do = [{{ write = "greeting.py", content = '''{AFTER}''' }}]

[[turns]]
say = "I keep what it looks like."
do = [{{ run = "cat greeting.py > seen.txt" }}]

[[turns]]
say = "It greets the world."
"""


@asynccontextmanager
async def rehearsed_hub(installed: Installed, directory: Path) -> AsyncGenerator[tuple[RunningHub, Provider]]:
    """Give a hub that has the agents and this provider; machines themselves cost nothing, so that calls are all there is."""
    (directory / "greeting.toml").write_text(SCRIPT)
    agents = {f"AUTOVIBE_{name.upper()}": value for name, value in asdict(installed).items()}
    async with any_rehearsed_hub(directory / "greeting.toml", {**agents, "AUTOVIBE_LOG_LEVEL": "info"}) as given:
        yield given
