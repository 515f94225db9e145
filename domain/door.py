"""What the door lets in: reading a knock, naming the facts it depends on, judging it. Every refusal is a `Problem`."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import cast
from uuid import UUID

from pydantic import ValidationError

from domain import risk
from domain.completion import DefaultModels, complete
from domain.project import Project
from domain.refusal import cut, from_validation, unknown_type
from events import registry
from events.address import Address, BadSubject, parse
from events.base import BODY_BYTES_MAX, Event
from events.budget import BudgetRequested, BudgetTopUpRequested
from events.checkpoint import (
    CheckpointCorrupted,
    CheckpointPinned,
    CheckpointPurged,
    CheckpointRequested,
    CheckpointTaken,
    CheckpointUnpinned,
)
from events.ids import HUB, is_slug
from events.machine import (
    MachineDenied,
    MachineEnded,
    MachineRequested,
    MachineRestoreRequested,
    MachineStopRequested,
)
from events.project import ProjectArchived, ProjectCreated, ProjectUpdated
from events.records import Problem
from events.words import MachineType, ProjectStatus

CLIENT_ID_CHARS_MAX = 200
DEPTH_MAX = 64
"""How deep what was read is looked through for odd characters; the models are far flatter."""
NO_PROJECT = Project()
_INSTALL = {
    MachineType.CLAUDE_CODE: "or install Claude Code where machines run: npm install -g @anthropic-ai/claude-code",
    MachineType.QWEN_CODER: "or install Qwen Code where machines run: npm install -g @qwen-code/qwen-code",
    MachineType.AIDER: "or install Aider where machines run: pipx install aider-chat",
}
_TOKEN = re.compile(r"[A-Za-z0-9_-]{1,128}")


@dataclass(frozen=True, slots=True)
class Request:
    """A knock that says something the contract knows."""

    address: Address
    event: Event


@dataclass(frozen=True, slots=True)
class Thing:
    """As much of a machine or checkpoint as the door must know."""

    exists: bool = False
    over: str = ""
    """Why it can no longer be used."""


@dataclass(frozen=True, slots=True)
class Facts:
    """What stands in the log about what a request names; `Thing()` where it names none."""

    project: Project = NO_PROJECT
    machine: Thing = Thing()
    checkpoint: Thing = Thing()
    is_new: bool = True
    """Nothing has happened to the aggregate it is addressed to."""


def read(subject: str, body: bytes, *, prefix: str) -> Request | Problem:
    """Return what a knock says, or why it says nothing."""
    try:
        address, type_name = parse(subject, prefix)
    except BadSubject as error:
        return Problem(
            code="bad_subject",
            message=cut(str(error), 1_000),
            field="subject",
            value=cut(subject, 400),
            limit=f"{prefix}.<project>.<aggregate>.<id>.<Type>, tokens of letters, digits, '-' and '_'",
            remedy=f"publish to e.g. {prefix}.webshop.machine.<uuid>.MachineRequested",
        )
    if len(body) > BODY_BYTES_MAX:
        return Problem(
            code="too_large",
            message=f"the body has {len(body)} bytes, {BODY_BYTES_MAX} are allowed",
            field="body",
            value=str(len(body)),
            limit=f"{BODY_BYTES_MAX} bytes",
            remedy="put large content into the chunk store and refer to it by digest",
        )
    return _read_body(address, type_name, body)


def _read_body(address: Address, type_name: str, body: bytes) -> Request | Problem:
    try:
        body.decode()
    except UnicodeDecodeError as error:
        return Problem(
            code="bad_body",
            message=f"the body is not UTF-8: byte {error.start} is 0x{body[error.start]:02x}",
            field="body",
            remedy="send the event as a JSON object in UTF-8",
        )
    try:
        event = registry.parse_at_door(type_name, body)
    except registry.UnknownType:
        return unknown_type(type_name)
    except ValidationError as error:
        return from_validation(error, registry.DOOR[type_name])
    if (path := _odd_text(event.model_dump(), ())) is not None:
        return Problem(
            code="bad_body",
            message="a text holds a NUL character or half a surrogate pair, which no database can keep",
            field=cut(path, 400),
            remedy="leave it out",
        )
    return _misaddressed(Request(address, event)) or Request(address, event)


def _misaddressed(request: Request) -> Problem | None:
    """Whether an event of this type can be addressed so."""
    address, event = request.address, request.event
    if event.aggregate != address.aggregate:
        return _bad_subject(
            f"{event.type()} happens to a {event.aggregate}, not to a {address.aggregate}", address.aggregate
        )
    if address.project != HUB and not is_slug(address.project):
        return _bad_subject("a project's slug is 1 to 63 of a-z, 0-9 and '-'", address.project)
    if address.project == HUB:
        return _misaddressed_to_hub(request)
    if isinstance(event, ProjectCreated | ProjectUpdated | ProjectArchived):
        return None if address.id == address.project else _bad_subject("a project's id is its slug", address.id)
    if isinstance(event, BudgetRequested | BudgetTopUpRequested) and address.id == address.project:
        return None
    return _not_a_uuid(address.id)


def _misaddressed_to_hub(request: Request) -> Problem | None:
    if not isinstance(request.event, BudgetRequested | BudgetTopUpRequested):
        message = f"{request.event.type()} cannot be said of {HUB}, which is no project"
        return Problem(code="not_allowed", message=message, field="project", value=HUB)
    if request.address.id != HUB:
        return _bad_subject("the hub's budget account is _hub", request.address.id)
    return None


def _not_a_uuid(text: str) -> Problem | None:
    try:
        canonical = str(UUID(text))
    except ValueError:
        return _bad_subject("the id is no UUID", text)
    return None if text == canonical else _bad_subject(f"write the id as {canonical}", text)


def machine_named(request: Request) -> UUID | None:
    """Return the machine that a request depends on."""
    address, event = request.address, request.event
    match event:
        case MachineRestoreRequested() | MachineStopRequested():
            return UUID(address.id)
        case CheckpointRequested(machine_id=machine_id):
            return machine_id
        case BudgetRequested() | BudgetTopUpRequested() if address.id not in {HUB, address.project}:
            return UUID(address.id)
        case _:
            return None


def checkpoint_named(request: Request) -> UUID | None:
    """Return the checkpoint that a request depends on."""
    match request.event:
        case MachineRequested(from_checkpoint_id=checkpoint_id):
            return checkpoint_id
        case ProjectUpdated(current_checkpoint_id=checkpoint_id):
            return checkpoint_id
        case MachineRestoreRequested(checkpoint_id=checkpoint_id):
            return checkpoint_id
        case CheckpointPinned() | CheckpointUnpinned():
            return UUID(request.address.id)
        case _:
            return None


def completed(request: Request, project: Project, models: DefaultModels) -> Request | Problem:
    """Return the request as it is to stand in the log: a machine's with what its project says of machines."""
    if not isinstance(request.event, MachineRequested) or not project.exists:
        return request
    event = complete(request.event, project.agent_policy, models)
    return event if isinstance(event, Problem) else Request(request.address, event)


def judge(request: Request, facts: Facts, machine_types: frozenset[MachineType]) -> Problem | None:
    """Return why a request cannot be let in as things stand; None lets it in."""
    return (
        _project_problem(request, facts.project)
        or _policy_problem(request.event)
        or _runner_problem(request.event, machine_types)
        or _machine_problem(request, facts)
        or _checkpoint_problem(request, facts)
    )


def evolve_machine(thing: Thing, event: Event) -> Thing:
    match event:
        case MachineRequested():
            return Thing(exists=True)
        case MachineEnded(outcome=outcome):
            return Thing(exists=True, over=f"it has ended ({outcome})")
        case MachineDenied():
            return Thing(exists=True, over="its budget denied it")
        case _:
            return thing


def evolve_checkpoint(thing: Thing, event: Event) -> Thing:
    match event:
        case CheckpointTaken():
            return Thing(exists=True)
        case CheckpointCorrupted():
            return Thing(exists=thing.exists, over="it is corrupt")
        case CheckpointPurged():
            return Thing(exists=thing.exists, over="its bytes were purged")
        case _:
            return thing


def rejected_subject(subject: str) -> str:
    """Return where the refusal of a knock on `subject` is recorded; tokens that cannot be kept become `_`."""
    tokens = [token if _TOKEN.fullmatch(token) else "_" for token in subject.split(".")[1:5]]
    return ".".join(("rejected", *tokens, *["_"] * (4 - len(tokens))))


def is_missing(problem: Problem) -> bool:
    """Whether what was said before, and is still on its way into the log, may make it right."""
    return problem.code in {"no_such_project", "no_such_machine", "no_such_checkpoint"}


def _project_problem(request: Request, project: Project) -> Problem | None:
    slug, event = request.address.project, request.event
    if slug == HUB:
        return None
    if isinstance(event, ProjectCreated):
        return _conflict(f"project {slug} exists already") if project.exists else None
    if not project.exists:
        return Problem(
            code="no_such_project",
            message=f"there is no project {slug}",
            field="project",
            value=slug,
            remedy=f"create it first: `autovibe project create {slug}`, or in.{slug}.project.{slug}.ProjectCreated",
        )
    if project.status is ProjectStatus.ARCHIVED and not isinstance(event, MachineStopRequested):
        return _closed(slug, "archived", "archived projects take no more requests")
    begins_work = isinstance(event, MachineRequested | MachineRestoreRequested | CheckpointRequested)
    if project.status is ProjectStatus.PAUSED and begins_work:
        return _closed(slug, "paused", 'resume it: ProjectUpdated {"status": "active"}')
    return None


def _policy_problem(event: Event) -> Problem | None:
    """Whether a rule of a project's checkpoint policy is a pattern that nothing can be searched with."""
    if not isinstance(event, ProjectCreated | ProjectUpdated) or event.checkpoint_policy is None:
        return None
    for number, rule in enumerate(event.checkpoint_policy.risk_rules):
        for name, pattern in (("tool", rule.tool), ("input", rule.input)):
            if wrong := risk.wrong_with(pattern):
                return Problem(
                    code="bad_body",
                    message=cut(f"risk rule {number + 1} has a {name} that is no regular expression: {wrong}", 1_000),
                    field=f"checkpoint_policy.risk_rules.{number}.{name}",
                    value=cut(pattern, 400),
                    remedy="write it in RE2's syntax: as for Python's re, without look-around and back-references",
                )
    return None


def _runner_problem(event: Event, machine_types: frozenset[MachineType]) -> Problem | None:
    if not isinstance(event, MachineRequested) or event.machine_type in machine_types:
        return None
    runnable = ", ".join(sorted(machine_types))
    return Problem(
        code="not_runnable",
        message=f"machines of type {event.machine_type} cannot be run on this hub",
        field="machine_type",
        value=event.machine_type,
        limit=runnable,
        remedy=f"use one of: {runnable}" + (f"; {howto}" if (howto := _INSTALL.get(event.machine_type)) else ""),
    )


def _machine_problem(request: Request, facts: Facts) -> Problem | None:
    if isinstance(request.event, MachineRequested):
        return None if facts.is_new else _conflict(f"machine {request.address.id} was requested before")
    machine_id = machine_named(request)
    if machine_id is None:
        return None
    if not facts.machine.exists:
        return _missing("machine", request, machine_id)
    if facts.machine.over:
        return _conflict(f"machine {machine_id} takes no more requests: {facts.machine.over}")
    return None


def _checkpoint_problem(request: Request, facts: Facts) -> Problem | None:
    if isinstance(request.event, CheckpointRequested):
        return None if facts.is_new else _conflict(f"checkpoint {request.address.id} was requested or taken before")
    checkpoint_id = checkpoint_named(request)
    if checkpoint_id is None:
        return None
    if not facts.checkpoint.exists:
        return _missing("checkpoint", request, checkpoint_id)
    if facts.checkpoint.over and not isinstance(request.event, CheckpointUnpinned):
        return _conflict(f"checkpoint {checkpoint_id} cannot be used: {facts.checkpoint.over}")
    return None


def _missing(kind: str, request: Request, thing_id: UUID) -> Problem:
    return Problem(
        code=f"no_such_{kind}",
        message=f"project {request.address.project} has no {kind} {thing_id}",
        field=f"{kind}_id",
        value=str(thing_id),
    )


def _conflict(message: str) -> Problem:
    return Problem(code="conflict", message=message)


def _closed(slug: str, status: str, remedy: str) -> Problem:
    return Problem(
        code=f"project_{status}", message=f"project {slug} is {status}", field="project", value=slug, remedy=remedy
    )


def _bad_subject(message: str, token: str) -> Problem:
    return Problem(code="bad_subject", message=cut(message, 1_000), field="subject", value=cut(token, 400))


def _odd_text(value: object, path: tuple[str, ...]) -> str | None:
    """Return where a text is that JSON allows and PostgreSQL does not."""
    assert len(path) < DEPTH_MAX
    match value:
        case str():
            return ".".join(path) if any(c == "\0" or "\ud800" <= c <= "\udfff" for c in value) else None
        case dict():
            entries = cast("Mapping[object, object]", value)
            pairs = [(str(key), key) for key in entries] + [(str(key), entry) for key, entry in entries.items()]
        case list() | tuple():
            pairs = [(str(place), entry) for place, entry in enumerate(cast("list[object]", value))]
        case _:
            return None
    found = (_odd_text(entry, (*path, name)) for name, entry in pairs)
    return next((place for place in found if place is not None), None)
