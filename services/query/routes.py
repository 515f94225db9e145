"""The API on one screen: every operation, who may call it and what it takes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from events.base import Event
from events.budget import BudgetRequested, BudgetTopUpRequested
from events.checkpoint import CheckpointPinned, CheckpointRequested, CheckpointUnpinned
from events.machine import MachineRequested, MachineRestoreRequested, MachineStopRequested
from events.project import ProjectArchived, ProjectCreated, ProjectUpdated
from events.words import Role
from services.query.commands import Commands
from services.query.differences import Differences
from services.query.http import JSON, Handler, Route
from services.query.letters import Letters
from services.query.listings import BUDGETS, CHECKPOINTS, CREDENTIALS, EVENTS, HUBS, MACHINES, PROJECTS, USAGE
from services.query.live import NDJSON, SSE, Live
from services.query.openapi import SAID, TEXT, body_of, item, items
from services.query.pages import Listing
from services.query.parameters import Parameter
from services.query.prices import Prices
from services.query.reads import Reads
from services.query.reports import BY, REPORTS, TREE, USAGE_BY
from services.query.status import Status

V1 = "/api/v1"
CREDENTIAL: Mapping[str, object] = {
    "type": "object",
    "required": ["kind", "name"],
    "properties": {
        "kind": {"enum": ["client", "api_key", "operator"]},
        "name": TEXT,
        "role": {"enum": list(Role)},
        "projects": {"type": "array", "items": TEXT},
        "ttl_s": {"type": "integer", "minimum": 1},
    },
}
ANY_EVENT: Mapping[str, object] = {
    "type": "object",
    "required": ["project", "type"],
    "properties": {"project": TEXT, "type": TEXT, "id": TEXT, "body": {"type": "object"}},
}
_PROJECT: Mapping[str, Mapping[str, object]] = {"project": TEXT, "project_uuid": TEXT}
_MACHINE: Mapping[str, Mapping[str, object]] = {"machine_uuid": TEXT}


@dataclass(frozen=True, slots=True)
class Handlers:
    """Everything that answers."""

    reads: Reads
    commands: Commands
    live: Live
    differences: Differences
    letters: Letters
    status: Status
    prices: Prices


def routes(by: Handlers) -> Sequence[Route]:
    """Return every operation below /api/v1; fixed paths stand before those with a parameter."""
    return (*_projects(by), *_machines(by), *_checkpoints(by), *_resources(by), *_events(by), *_hub(by))


def _projects(by: Handlers) -> Sequence[Route]:
    one = item([name for name, _ in PROJECTS.columns])
    return (
        _page("/projects", by.reads, PROJECTS, "Projects, newest first"),
        _say("POST", "/projects", by.commands.create_project, "Create a project", ProjectCreated, name=TEXT),
        _read("/projects/{id}", by.reads.project, "One project, by slug or uuid", answer=one),
        _say("PATCH", "/projects/{id}", by.commands.update_project, "Change a project's settings", ProjectUpdated),
        _say("POST", "/projects/{id}/archive", by.commands.archive_project, "Archive a project", ProjectArchived),
    )


def _machines(by: Handlers) -> Sequence[Route]:
    commands, live = by.commands, by.live
    requested = partial(_say, prompt=TEXT, **_PROJECT)
    return (
        _page("/machines", by.reads, MACHINES, "Machines, newest first"),
        requested("POST", "/machines", commands.create_machine, "Request a machine", MachineRequested),
        _one("/machines/{id}", by.reads, MACHINES, "machine"),
        _read("/machines/{id}/logs", live.logs, "What a machine printed", live.LOGS, answers=NDJSON),
        _say("POST", "/machines/{id}/stop", commands.stop_machine, "End a machine", MachineStopRequested),
        _say("POST", "/machines/{id}/restore", commands.restore_machine, "Go on elsewhere", MachineRestoreRequested),
    )


def _checkpoints(by: Handlers) -> Sequence[Route]:
    commands, compare = by.commands, by.differences
    captured = partial(_say, **_MACHINE)
    return (
        _page("/checkpoints", by.reads, CHECKPOINTS, "Checkpoints, newest first"),
        _read("/checkpoints/tree", by.reads.tree, TREE.summary, TREE.filters, answer={"type": "array"}),
        _read("/checkpoints/diff", compare.diff, "What changed between two checkpoints", compare.PARAMETERS),
        captured("POST", "/checkpoints", commands.create_checkpoint, "Capture a machine now", CheckpointRequested),
        _one("/checkpoints/{id}", by.reads, CHECKPOINTS, "checkpoint"),
        _say("POST", "/checkpoints/{id}/pin", commands.pin_checkpoint, "Never drop it", CheckpointPinned),
        _say("POST", "/checkpoints/{id}/unpin", commands.unpin_checkpoint, "Let it be dropped", CheckpointUnpinned),
    )


def _resources(by: Handlers) -> Sequence[Route]:
    reads = by.reads
    summed = (BY, *USAGE_BY["project"].filters)
    set_budget = partial(_say, **_PROJECT, **_MACHINE)
    return (
        _page("/resources/usage", reads, USAGE, "Usage records, newest first"),
        _read("/resources/usage/summary", reads.usage_by, "Usage and cost, summed", summed),
        _page("/resources/budgets", reads, BUDGETS, "Budget accounts by period, newest first"),
        set_budget("POST", "/resources/budgets", by.commands.set_budget, "Set a budget", BudgetRequested),
        set_budget("POST", "/resources/budgets/top-up", by.commands.top_up, "Add to a budget", BudgetTopUpRequested),
        _read("/prices", by.prices.price, "What a model costs", by.prices.PARAMETERS),
        *(
            _read(f"/reports/{name}", reads.named_report(name), report.summary, report.filters)
            for name, report in REPORTS.items()
        ),
    )


def _events(by: Handlers) -> Sequence[Route]:
    letters, commands, v1 = by.letters, by.commands, V1 + "/events"
    again = "Deliver a dead letter again"
    return (
        _page("/events", by.reads, EVENTS, "The log, newest first"),
        _read("/events/types", by.status.event_types, "Every event type and who may say it"),
        _read("/events/stream", by.live.events, "Events as they come", by.live.EVENTS, answers=SSE),
        _read("/events/rejected", letters.rejected, "What the door refused", letters.REJECTED),
        Route("GET", f"{v1}/dead", letters.dead, "What no handler could do", everything=True, parameters=letters.DEAD),
        Route("POST", f"{v1}/dead/{{id}}/retry", letters.retry, again, Role.ADMIN, everything=True, status=202),
        _read("/events/{id}", by.status.event, "One event, by sequence number or id"),
        Route(
            "POST", v1, commands.publish, "Say any event that the door takes", Role.OPERATOR, body=ANY_EVENT, status=202,
            answer=SAID,
        ),
    )  # fmt: skip


def _hub(by: Handlers) -> Sequence[Route]:
    commands, keys = by.commands, V1 + "/credentials"
    create = "Issue a credential; the secret is in this answer and nowhere else"
    admin = partial(Route, role=Role.ADMIN, everything=True)
    listed = by.reads.listing(CREDENTIALS, kept=False)
    return (
        _read("/status", by.status.status, "What runs, how far, how many"),
        _page("/hub", by.reads, HUBS, "Hub instances, newest first", everything=True),
        admin("GET", keys, listed, "Who may speak; never a secret", parameters=CREDENTIALS.parameters),
        admin("POST", keys, commands.create_credential, create, body=CREDENTIAL, status=201),
        admin("DELETE", keys + "/{id}", commands.revoke_credential, "Revoke a credential", status=202),
    )


def _read(
    path: str,
    handler: Handler,
    summary: str,
    parameters: tuple[Parameter, ...] = (),
    *,
    answers: str = JSON,
    answer: Mapping[str, object] | None = None,
) -> Route:
    return Route("GET", V1 + path, handler, summary, parameters=parameters, answers=answers, answer=answer or {})


def _page(path: str, reads: Reads, listing: Listing, summary: str, *, everything: bool = False) -> Route:
    return Route(
        "GET",
        V1 + path,
        reads.listing(listing),
        summary,
        everything=everything,
        parameters=listing.parameters,
        answer=items([name for name, _ in listing.columns]),
    )


def _one(path: str, reads: Reads, listing: Listing, kind: str) -> Route:
    answer = item([name for name, _ in listing.columns])
    summary = f"One {kind}, by id or a unique prefix of it"
    return _read(path, reads.item(listing, kind), summary, answer=answer)


def _say(
    method: str, path: str, handler: Handler, summary: str, event: type[Event], **more: Mapping[str, object]
) -> Route:
    """A command: its body is the event's, and what says whom it is about."""
    body = body_of(event, **more)
    return Route(method, V1 + path, handler, summary, Role.OPERATOR, body=body, status=202, answer=SAID)
