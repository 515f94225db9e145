"""A machine's request completed by its project's agent policy: what stands in the log needs no second source.

The request's own word comes first, then the project's, then the hub's default for the type.
"""

from collections.abc import Mapping
from fnmatch import fnmatchcase

from events.base import Event
from events.machine import ENV_MAX, Limits, MachineRequested
from events.project import AgentPolicy
from events.records import Problem
from events.words import MachineType

DefaultModels = Mapping[MachineType, str]
"""The model that a type's agent uses where neither the request nor the project names one."""
MODELLESS = frozenset({MachineType.SHELL, MachineType.HUB})
_COMPLETED = frozenset({"machine_type", "limits", "env", "model"})


def complete(asked: MachineRequested, policy: AgentPolicy, models: DefaultModels) -> MachineRequested | Problem:
    """Return the request with everything in it that the machine is to be, or why it cannot be so."""
    machine_type = asked.machine_type if "machine_type" in asked.model_fields_set else policy.machine_type
    env = {**policy.env, **asked.env}
    if len(env) > ENV_MAX:
        return Problem(
            code="bad_body",
            message=f"with the project's own the environment has {len(env)} variables, {ENV_MAX} are allowed",
            field="env",
            value=str(len(env)),
            limit=f"{ENV_MAX} variables",
            remedy="set fewer here or in the project",
        )
    model = _model(asked.model, machine_type, policy, models)
    if isinstance(model, Problem):
        return model
    return asked.model_copy(
        update={
            "machine_type": machine_type,
            "limits": _limits(asked.limits, policy.limits),
            "env": env,
            "model": model,
        }
    )


def is_completed(asked: Event, said: Event) -> bool:
    """Whether what stands in the log is what was asked; a policy may have completed it, and may be another by now."""
    if not (isinstance(asked, MachineRequested) and isinstance(said, MachineRequested)):
        return asked == said
    own = {name: getattr(asked, name) for name in MachineRequested.model_fields if name not in _COMPLETED}
    same = all(getattr(said, name) == value for name, value in own.items())
    typed = "machine_type" not in asked.model_fields_set or asked.machine_type is said.machine_type
    limited = all(getattr(said.limits, name) == getattr(asked.limits, name) for name in asked.limits.model_fields_set)
    modelled = asked.model in {None, said.model}
    return same and typed and limited and modelled and asked.env.items() <= said.env.items()


def _limits(asked: Limits, policy: Limits | None) -> Limits:
    """Each limit by itself: what the request does not name is the project's."""
    if policy is None:
        return asked
    return policy.model_copy(update={name: getattr(asked, name) for name in asked.model_fields_set})


def _model(
    asked: str | None, machine_type: MachineType, policy: AgentPolicy, models: DefaultModels
) -> str | Problem | None:
    if machine_type in MODELLESS:
        return None if asked is None else _modelless(asked, machine_type)
    model = asked or policy.model or models.get(machine_type)
    if model is None:
        return Problem(
            code="no_model",
            message=f"a machine of type {machine_type} needs a model, and neither request, project nor hub names one",
            field="model",
            remedy="name one: `autovibe run --model`, or `autovibe project set --model`",
        )
    allowed = policy.models_allowed
    if allowed and not any(fnmatchcase(model, pattern) for pattern in allowed):
        patterns = ", ".join(allowed)
        return Problem(
            code="model_not_allowed",
            message=f"the project does not allow the model {model}",
            field="model",
            value=model,
            limit=patterns[:400],
            remedy=f"use one of: {patterns}; or `autovibe project set --model-allowed`"[:1_000],
        )
    return model


def _modelless(asked: str, machine_type: MachineType) -> Problem:
    return Problem(
        code="no_model_used",
        message=f"a machine of type {machine_type} uses no model",
        field="model",
        value=asked,
        remedy="leave the model out, or ask for an agent: claude_code, claude_api, qwen_coder, aider",
    )
