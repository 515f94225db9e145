"""An agent's work is captured between its model calls, on a whole hub."""

import pytest

from tests.harness.hub import ROOT, RunningHub


@pytest.mark.timeout(180)
async def test_what_an_agent_changed_is_captured_before_its_next_call(hub: RunningHub) -> None:
    examples = ROOT / "examples"
    await hub.ok("project", "create", "webshop", "--from", str(examples / "webshop"), "--budget", "5CAD")
    goal = (examples / "goals" / "discounts.txt").read_text(encoding="utf-8")
    await hub.ok("run", "webshop", goal, "--type", "claude_api", "--budget", "1CAD", timeout_s=120)
    taken = (await hub.ok("checkpoint", "ls", "--project", "webshop", "--json", "-n", "100")).json
    contexts = [checkpoint["creation_context"] for checkpoint in reversed(taken)]
    assert "between_calls" in contexts
    assert contexts[-1] == "final_state"
