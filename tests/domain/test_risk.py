"""Which tool calls are risky, by patterns that anybody may write."""

import time

import pytest

from domain.risk import INPUT_CHARS_MAX, found, watching, wrong_with
from events.project import RISK_RULES, RiskRule


def risky(rules: tuple[RiskRule, ...], tool: str, given: str) -> bool:
    return found(watching(rules, tool), given)


def test_what_is_risky_is_what_a_rule_finds_in_tool_and_input() -> None:
    assert risky(RISK_RULES, "Bash", '{"command":"rm -rf build"}')
    assert risky(RISK_RULES, "run_shell_command", '{"command":"git reset --hard"}')
    assert risky(RISK_RULES, "delete_file", "{}")
    assert not risky(RISK_RULES, "Bash", '{"command":"ls"}')
    assert not risky(RISK_RULES, "Read", '{"path":"rm -rf"}')


def test_padding_hides_nothing() -> None:
    assert risky(RISK_RULES, "Bash", " " * INPUT_CHARS_MAX + "rm -rf build")


@pytest.mark.parametrize("pattern", ["(", "[", "(?=a)b", r"(a)\1", "(?<!x)y"])
def test_a_pattern_that_is_none_is_told_and_counts_as_found(pattern: str) -> None:
    assert wrong_with(pattern)
    assert risky((RiskRule(tool=pattern),), "Read", "{}")
    assert risky((RiskRule(tool="Read", input=pattern),), "Read", "{}")


@pytest.mark.parametrize("rule", RISK_RULES)
def test_the_rules_that_every_project_starts_with_are_patterns(rule: RiskRule) -> None:
    assert not wrong_with(rule.tool)
    assert not wrong_with(rule.input)


@pytest.mark.parametrize("pattern", ["(a+)+$", "(a|a)+$", r"\s*\s*x", "a*a*a*b", "(?:a?){99}x", "(.*)*=(.*)*"])
def test_no_pattern_takes_for_ever(pattern: str) -> None:
    """With backtracking each of these would take from seconds to the age of the universe."""
    began = time.process_time()
    assert not found([pattern], "a" * (INPUT_CHARS_MAX // 2) + " " * (INPUT_CHARS_MAX // 2 - 1) + "!")
    assert time.process_time() - began < 5
