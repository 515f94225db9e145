"""What is typed of a project's policies: what was not typed stays, what cannot be is refused with how to mend it."""

import json
from pathlib import Path

import pytest

from cli.commands.policy import BetweenCalls, FirstWords, agent_policy, checkpoint_policy
from cli.exits import CliError
from events.project import AgentPolicy, CheckpointPolicy

NOW = {"machine_type": "shell", "env": {"CI": "1"}, "limits": {"memory_mib": 64, "cpu_milli": 500}}


def test_nothing_said_changes_nothing() -> None:
    assert agent_policy({"env": None, "model": None}, NOW) is None
    assert checkpoint_policy({"before_risk": None}, {}) is None


def test_what_is_said_is_laid_over_what_there_is_and_the_events_take_it() -> None:
    found = agent_policy(
        {
            "agent": "claude_code",
            "model": "claude-opus-5",
            "model_allowed": ["claude-*"],
            "memory": "2G",
            "env": ["A=b"],
            "conversation": FirstWords.FORK,
        },
        NOW,
    )
    assert found is not None
    policy = AgentPolicy.model_validate_json(json.dumps(found))
    assert (policy.machine_type, policy.model, policy.models_allowed) == ("claude_code", "claude-opus-5", ("claude-*",))
    assert policy.env == {"CI": "1", "A": "b"}
    assert policy.limits
    assert (policy.limits.memory_mib, policy.limits.cpu_milli) == (2_048, 500)
    assert policy.conversation == "fork"


def test_an_empty_word_takes_a_setting_back() -> None:
    found = agent_policy({"model": "", "model_allowed": [""], "setup": ""}, {"model": "x", "setup": "make"})
    assert found == {"model": None, "models_allowed": [], "setup": ""}


def test_checkpoints_are_ruled_by_what_is_said() -> None:
    found = checkpoint_policy(
        {
            "checkpoint_every": "60s",
            "between_calls": BetweenCalls.ALWAYS,
            "calls_max": 3,
            "before_risk": False,
            "risk_rule": ["(?i)bash=rm -rf", "deploy"],
        },
        {"at_start": False},
    )
    assert found is not None
    policy = CheckpointPolicy.model_validate_json(json.dumps(found))
    assert (policy.at_start, policy.interval_s, policy.between_calls, policy.calls_max) == (False, 60, "always", 3)
    assert [(rule.tool, rule.input) for rule in policy.risk_rules] == [("(?i)bash", "rm -rf"), ("deploy", "")]


def test_a_setup_script_is_read_and_one_that_is_too_large_is_refused(tmp_path: Path) -> None:
    script = tmp_path / "setup.sh"
    script.write_text("npm ci\n")
    found = agent_policy({"setup": str(script)}, {})
    assert found == {"setup": "npm ci\n"}
    script.write_text("x" * 20_000)
    with pytest.raises(CliError, match="larger than 16384"):
        agent_policy({"setup": str(script)}, {})
    with pytest.raises(CliError, match="No such file"):
        agent_policy({"setup": str(tmp_path / "none")}, {})
