"""What a project says of its machines stands in each request that the log has; the request's own word comes first."""

import json
from uuid import UUID, uuid4

import pytest

from domain.completion import complete, is_completed
from domain.door import Facts, Request, judge
from domain.project import Project
from events.address import Address
from events.machine import ENV_MAX, Limits, MachineRequested
from events.project import AgentPolicy, CheckpointPolicy, ProjectUpdated, RiskRule
from events.records import Problem
from events.registry import parse_at_door
from events.words import MachineType, ProjectStatus
from tests.intake.conftest import Knocker, given_project

MODELS = {MachineType.CLAUDE_CODE: "claude-sonnet-4-5"}
POLICY = AgentPolicy(
    machine_type=MachineType.CLAUDE_CODE,
    model="claude-opus-5",
    models_allowed=("claude-opus-*", "claude-haiku-*"),
    limits=Limits(memory_mib=2_048, deadline_s=600),
    env={"CI": "1", "COLOUR": "no"},
)


def asked(**fields: object) -> MachineRequested:
    """A request as it comes in: what is not there was not said."""
    event = parse_at_door("MachineRequested", json.dumps({"goal": "x", **fields}).encode())
    assert isinstance(event, MachineRequested)
    return event


def completed(event: MachineRequested, policy: AgentPolicy = POLICY) -> MachineRequested:
    found = complete(event, policy, MODELS)
    assert isinstance(found, MachineRequested), found
    return found


def refused(event: MachineRequested, policy: AgentPolicy = POLICY) -> Problem:
    found = complete(event, policy, MODELS)
    assert isinstance(found, Problem), found
    return found


def test_what_a_request_does_not_say_is_the_projects() -> None:
    found = completed(asked())
    assert (found.machine_type, found.model, found.limits, found.env) == (
        MachineType.CLAUDE_CODE, "claude-opus-5", POLICY.limits, POLICY.env,
    )  # fmt: skip


def test_what_a_request_says_comes_first_limit_by_limit_and_variable_by_variable() -> None:
    found = completed(asked(model="claude-haiku-4-5", limits={"deadline_s": 60}, env={"COLOUR": "yes"}))
    assert found.model == "claude-haiku-4-5"
    assert (found.limits.deadline_s, found.limits.memory_mib, found.limits.cpu_milli) == (60, 2_048, 1_000)
    assert found.env == {"CI": "1", "COLOUR": "yes"}


def test_a_shell_in_a_project_of_agents_uses_no_model() -> None:
    assert completed(asked(machine_type="shell")).model is None
    assert refused(asked(machine_type="shell", model="claude-opus-5")).code == "no_model_used"


def test_without_a_word_of_the_project_the_hubs_default_is_the_model() -> None:
    assert completed(asked(machine_type="claude_code"), AgentPolicy()).model == "claude-sonnet-4-5"
    problem = refused(asked(machine_type="aider"), AgentPolicy())
    assert (problem.code, problem.field) == ("no_model", "model")
    assert problem.remedy


def test_a_model_that_the_project_does_not_allow_is_refused_with_what_it_allows() -> None:
    problem = refused(asked(model="gpt-9"))
    assert (problem.code, problem.value, problem.limit) == (
        "model_not_allowed",
        "gpt-9",
        "claude-opus-*, claude-haiku-*",
    )
    assert problem.remedy


def test_more_variables_than_there_may_be_are_refused() -> None:
    many = POLICY.model_copy(update={"env": {f"A{number}": "" for number in range(ENV_MAX)}})
    assert refused(asked(env={"B": "1"}), many).field == "env"


def test_a_request_told_again_is_the_same_whatever_the_project_says_by_now() -> None:
    event = asked(limits={"deadline_s": 60}, env={"B": "1"})
    said = completed(event)
    assert is_completed(event, said)
    assert not is_completed(asked(limits={"deadline_s": 61}, env={"B": "1"}), said)
    assert not is_completed(asked(limits={"deadline_s": 60}, env={"B": "2"}), said)
    assert not is_completed(asked(machine_type="shell"), said)
    assert not is_completed(asked(model="claude-haiku-4-5"), said)
    assert not is_completed(event.model_copy(update={"goal": "y"}), said)


@pytest.mark.parametrize("rule", [RiskRule(tool="("), RiskRule(tool="x", input="[")])
def test_a_risk_rule_that_is_no_pattern_is_refused(rule: RiskRule) -> None:
    event = ProjectUpdated(checkpoint_policy=CheckpointPolicy(risk_rules=(rule,)))
    problem = judge(
        Request(Address("webshop", "project", "webshop"), event), Facts(Project(ProjectStatus.ACTIVE)), frozenset()
    )
    assert problem
    assert problem.field.startswith("checkpoint_policy.risk_rules.0.")


async def test_the_log_has_the_whole_request_and_its_repetition_is_a_duplicate(door: Knocker) -> None:
    await given_project(door.bus, "webshop")
    policy = {"env": {"CI": "1"}, "limits": {"memory_mib": 64}}
    assert not (await door.ask("webshop.project.webshop.ProjectUpdated", {"agent_policy": policy})).problem
    machine_id, event_id = uuid4(), str(uuid4())
    subject = f"webshop.machine.{machine_id}.MachineRequested"
    first = await door.ask(subject, {"goal": "make test"}, ce_id=event_id)
    event = (await door.events())[-1].event
    assert isinstance(event, MachineRequested)
    assert (event.machine_type, event.env, event.limits.memory_mib) == (MachineType.SHELL, {"CI": "1"}, 64)
    await door.ask("webshop.project.webshop.ProjectUpdated", {"agent_policy": {"env": {"CI": "2"}}})
    again = await door.ask(subject, {"goal": "make test"}, ce_id=event_id)
    assert (again.seq, again.duplicate) == (first.seq, True)


async def test_a_type_that_the_project_wants_and_the_hub_cannot_run_is_refused_with_those_it_can(door: Knocker) -> None:
    await given_project(door.bus, "webshop")
    await door.ask("webshop.project.webshop.ProjectUpdated", {"agent_policy": {"machine_type": "hub"}})
    answer = await door.ask(f"webshop.machine.{UUID(int=7)}.MachineRequested", {"goal": "make test"})
    assert answer.problem
    assert answer.problem.code == "not_runnable"
    assert "claude_code" in (answer.problem.remedy or "")
