"""The interpreter that runs the built-in agent in a sandbox: ours, with its packages, seen there read-only."""

import functools
import importlib.metadata
import importlib.util
import os
import subprocess
import sys
from pathlib import Path

from events.agent import AgentTool

PACKAGE = "anthropic"
COMPILE_DEADLINE_S = 120.0


@functools.cache
def own_python() -> AgentTool | None:
    """Return our interpreter with what it needs; None: it has no `anthropic`.

    Of our own code a sandbox sees the package `agent` alone, which holds no secret and is what runs in it.
    """
    try:
        version = importlib.metadata.version(PACKAGE)
    except importlib.metadata.PackageNotFoundError:
        return None
    agent = importlib.util.find_spec("agent")
    assert agent is not None, "the agent is a part of what is installed"
    assert agent.origin is not None
    places = [Path(sys.prefix), Path(sys.base_prefix), Path(sys.executable).resolve().parent.parent]
    places.append(Path(agent.origin).parent)
    seen = tuple(dict.fromkeys(str(each) for each in places if each != Path("/usr")))
    return AgentTool(command=(sys.executable,), mounts=seen, version=f"{PACKAGE} {version}")


@functools.cache
def compile_once() -> bool:
    """Import what the built-in agent imports, so that its compiled form is kept beside it. Blocks for some seconds.

    A sandbox sees the packages read-only and would compile them at every start: 6 seconds of a core instead of 2.

    Returns:
        Whether it could be done; nothing depends on it but that time.
    """
    unset = {"PYTHONDONTWRITEBYTECODE"}
    environment = {name: value for name, value in os.environ.items() if name not in unset}
    agent = importlib.util.find_spec("agent")
    if agent is not None and agent.origin is not None:
        environment["PYTHONPATH"] = str(Path(agent.origin).parent.parent)
    command = [sys.executable, "-P", "-s", "-c", "import agent.loop.talk"]
    try:
        done = subprocess.run(command, env=environment, capture_output=True, check=False, timeout=COMPILE_DEADLINE_S)
    except (OSError, subprocess.TimeoutExpired):
        return False
    return done.returncode == 0
