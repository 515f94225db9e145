"""One capture at a time, whatever becomes of who asked for it."""

import asyncio
import threading
from pathlib import Path

import pytest

from agent.captures import Captures
from agent.connection import Connection
from agent.options import Options
from agent.reports import Reports
from agent.workspace import Workspace
from events.agent import AgentSpec
from events.project import CheckpointPolicy
from snapshots.capture import Snapshot
from tests.agent.machines import Base
from tests.harness.waiting import eventually


class SlowWorkspace(Workspace):
    """Holds the first capture until it is let go, and counts how many run at once."""

    def __init__(self, spec: AgentSpec) -> None:
        super().__init__(spec)
        self.go = threading.Event()
        self.running = self.most = 0

    def capture(self, parent: str, deadline_s: float) -> Snapshot:
        self.running += 1
        self.most = max(self.most, self.running)
        self.go.wait(10)
        try:
            return super().capture(parent, deadline_s)
        finally:
            self.running -= 1


@pytest.mark.asyncio
async def test_the_final_capture_does_not_run_beside_one_that_was_cancelled(tmp_path: Path) -> None:
    """The goal ends while the interval's capture is on its way: its thread goes on, on the same stat cache."""
    given = Base(tmp_path / "base").spec("true", "nats://nowhere", policy=CheckpointPolicy(interval_s=5))
    spec = AgentSpec(**{name: getattr(given, name) for name in type(given).model_fields}, root=str(tmp_path / "root"))
    for name in ("workspace", "home"):
        (tmp_path / "root" / name).mkdir(parents=True)
    workspace = SlowWorkspace(spec)
    captures = Captures(spec, workspace, Reports(spec, Connection("", "", "")), Options())
    captures.workspace_stands()
    by_interval = asyncio.create_task(captures.by_interval())
    await eventually(lambda: workspace.running == 1)
    by_interval.cancel()
    last = asyncio.create_task(captures.at_end())
    _, waiting = await asyncio.wait({last}, timeout=0.2)
    assert waiting
    workspace.go.set()
    assert await last is not None
    assert workspace.most == 1
    workspace.close()
