"""The door's decisions: whatever comes in, it is a request or a problem, and what is let in reads back the same."""

import json
import re
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from domain import door, project
from domain.door import Facts, Request, Thing, evolve_checkpoint, evolve_machine, judge, read, rejected_subject
from domain.project import Project
from domain.refusal import cut
from events.address import Address
from events.base import BODY_BYTES_MAX, Event
from events.budget import BudgetRequested
from events.checkpoint import CheckpointCorrupted, CheckpointPinned, CheckpointRequested, CheckpointUnpinned
from events.machine import MachineEnded, MachineRequested, MachineRestoreRequested, MachineStopRequested
from events.project import ProjectAdvanced, ProjectArchived, ProjectCreated, ProjectUpdated
from events.records import Problem, Rejected
from events.registry import DOOR, EVENTS, parse
from events.words import MachineType, Outcome, ProjectStatus, Unit

SHELL = frozenset({MachineType.SHELL})
MACHINE, CHECKPOINT = UUID(int=1), UUID(int=2)
GOAL = {"goal": "x", "machine_type": "shell"}
HERE = Thing(exists=True)
ACTIVE = Project(ProjectStatus.ACTIVE)

token = st.one_of(
    st.sampled_from(
        ["webshop", "_hub", "machine", "project", "checkpoint", "budget", str(MACHINE), "in", "*", ">", ""]
    ),
    st.sampled_from(sorted(EVENTS)),
    st.text(max_size=12),
)
subject = st.one_of(
    st.lists(token, max_size=7).map(".".join),
    st.tuples(st.sampled_from(sorted(DOOR)), st.sampled_from(["webshop", "_hub"])).map(
        lambda named: (
            f"in.{named[1]}.{DOOR[named[0]].aggregate}."
            f"{named[1] if DOOR[named[0]].aggregate == 'project' else MACHINE}.{named[0]}"
        )
    ),
)
field_name = st.one_of(
    st.sampled_from(sorted({name for event in DOOR.values() for name in event.model_fields})), st.text(max_size=6)
)
json_value = st.recursive(
    st.one_of(
        st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=20),
        st.sampled_from(["1.50", "-1", "NaN", "1e999999", "Infinity", "0", "shell", str(CHECKPOINT), "a\0b", "\ud800"]),
    ),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(field_name, inner, max_size=5),
    max_leaves=12,
)  # fmt: skip
body = st.one_of(
    st.binary(max_size=200),
    json_value.map(lambda value: json.dumps(value).encode()),
    st.dictionaries(field_name, json_value, max_size=6).map(lambda value: json.dumps(GOAL | value).encode()),
)


@settings(max_examples=500, deadline=None)
@given(subject, body)
def test_whatever_is_said_is_a_request_that_reads_back_the_same_or_a_problem_that_can_be_recorded(
    said: str, text: bytes
) -> None:
    outcome = read(said, text, prefix="in")
    if isinstance(outcome, Request):
        type_name = said.rpartition(".")[2]
        assert parse(type_name, outcome.event.body()) == outcome.event
        assert b"\\u0000" not in outcome.event.body().replace(b"\\\\", b"")
        refused = judge(outcome, Facts(ACTIVE, HERE, HERE, is_new=True), SHELL)
        assert refused is None or refused.message
    else:
        assert Problem.model_validate_json(outcome.model_dump_json()) == outcome
        assert outcome.code
        assert outcome.message


@given(st.text(max_size=300))
def test_a_refusal_is_recorded_where_its_project_can_hear_it_or_nowhere_odd(said: str) -> None:
    assert re.fullmatch(r"rejected(\.[A-Za-z0-9_-]{1,128}){4}", rejected_subject(said))


@given(st.text(max_size=500), st.integers(20, 100))
def test_what_is_quoted_is_short_and_printable(text: str, chars_max: int) -> None:
    shown = cut(text, chars_max)
    assert len(shown) <= chars_max
    assert shown.isprintable()
    shown.encode()


def said_of_webshop(event: Event, identity: object = MACHINE) -> Request:
    return Request(Address("webshop", event.aggregate, str(identity)), event)


WISHES: list[tuple[Event, object]] = [
    (MachineRequested(goal="x", machine_type=MachineType.SHELL), MACHINE),
    (MachineStopRequested(), MACHINE),
    (MachineRestoreRequested(checkpoint_id=CHECKPOINT), MACHINE),
    (CheckpointRequested(machine_id=MACHINE), CHECKPOINT),
    (CheckpointPinned(), CHECKPOINT),
    (CheckpointUnpinned(), CHECKPOINT),
    (ProjectUpdated(), "webshop"),
    (ProjectArchived(), "webshop"),
    (BudgetRequested(amount="1", unit=Unit.CAD), "webshop"),  # pyright: ignore[reportArgumentType] # as on the wire
    (BudgetRequested(amount="1", unit=Unit.CAD), MACHINE),  # pyright: ignore[reportArgumentType] # as on the wire
]


@pytest.mark.parametrize(("event", "identity"), WISHES)
def test_every_wish_is_granted_where_all_it_names_is_there(event: Event, identity: object) -> None:
    assert judge(said_of_webshop(event, identity), Facts(ACTIVE, HERE, HERE, is_new=True), SHELL) is None


@pytest.mark.parametrize(("event", "identity"), WISHES)
def test_no_wish_is_granted_in_a_project_that_does_not_exist(event: Event, identity: object) -> None:
    refused = judge(said_of_webshop(event, identity), Facts(Project(), HERE, HERE), SHELL)
    assert refused
    assert refused.code == "no_such_project"


@pytest.mark.parametrize(("event", "identity"), WISHES)
def test_an_archived_project_grants_nothing_but_an_end(event: Event, identity: object) -> None:
    refused = judge(said_of_webshop(event, identity), Facts(Project(ProjectStatus.ARCHIVED), HERE, HERE), SHELL)
    if isinstance(event, MachineStopRequested):
        assert refused is None
    else:
        assert refused
        assert refused.code == "project_archived"


@pytest.mark.parametrize(("event", "identity"), WISHES)
def test_every_wish_that_names_a_thing_is_refused_without_it(event: Event, identity: object) -> None:
    request = said_of_webshop(event, identity)
    named = {
        "no_such_machine": door.machine_named(request),
        "no_such_checkpoint": door.checkpoint_named(request),
    }
    refused = judge(request, Facts(ACTIVE), SHELL)
    expected = next((code for code, thing in named.items() if thing), None)
    assert (refused.code if refused else None) == expected


def test_what_is_over_is_refused_with_why() -> None:
    ended = evolve_machine(evolve_machine(Thing(), WISHES[0][0]), MachineEnded(outcome=Outcome.FAILED))
    corrupt = evolve_checkpoint(HERE, CheckpointCorrupted(reason="bits"))
    stop = judge(said_of_webshop(MachineStopRequested()), Facts(ACTIVE, ended, HERE), SHELL)
    assert stop
    assert "failed" in stop.message
    start = judge(
        said_of_webshop(MachineRequested(goal="x", machine_type=MachineType.SHELL, from_checkpoint_id=CHECKPOINT)),
        Facts(ACTIVE, HERE, corrupt),
        SHELL,
    )
    assert start
    assert "corrupt" in start.message
    assert judge(said_of_webshop(CheckpointUnpinned(), CHECKPOINT), Facts(ACTIVE, HERE, corrupt), SHELL) is None


def test_a_project_is_what_its_events_say() -> None:
    def folded(*events: Event) -> Project:
        state = Project()
        for event in events:
            state = project.evolve(state, event)
        return state

    assert not folded().exists
    assert folded(ProjectCreated()) == ACTIVE
    assert folded(ProjectCreated(), ProjectAdvanced(checkpoint_id=CHECKPOINT)).current_checkpoint_id == CHECKPOINT
    by_hand = ProjectUpdated(current_checkpoint_id=MACHINE, status=ProjectStatus.PAUSED)
    paused = folded(ProjectCreated(), ProjectAdvanced(checkpoint_id=CHECKPOINT), by_hand)
    assert paused == Project(ProjectStatus.PAUSED, MACHINE)
    assert folded(ProjectCreated(), ProjectUpdated(description="x")) == ACTIVE
    assert folded(ProjectCreated(), ProjectArchived()).status is ProjectStatus.ARCHIVED


@pytest.mark.parametrize("spelling", ["{upper}", "{hex}", "{{{plain}}}", "urn:uuid:{plain}"])
def test_an_id_has_one_spelling(spelling: str) -> None:
    machine_id = UUID("0198c1d2-0000-7000-8000-00000000000a")
    plain = str(machine_id)
    assert isinstance(read(f"in.webshop.machine.{plain}.MachineStopRequested", b"{}", prefix="in"), Request)
    spelled = spelling.format(upper=plain.upper(), hex=machine_id.hex, plain=plain)
    assert isinstance(read(f"in.webshop.machine.{spelled}.MachineStopRequested", b"{}", prefix="in"), Problem)


def test_the_largest_body_is_let_in_and_one_byte_more_is_not() -> None:
    fits = b'{"reason": ""}'.ljust(BODY_BYTES_MAX)
    assert isinstance(read(f"in.w.machine.{MACHINE}.MachineStopRequested", fits, prefix="in"), Request)
    outcome = read(f"in.w.machine.{MACHINE}.MachineStopRequested", fits + b" ", prefix="in")
    assert isinstance(outcome, Problem)
    assert (outcome.code, outcome.value, outcome.limit) == ("too_large", "262145", "262144 bytes")


def test_every_problem_fits_into_a_rejection() -> None:
    outcome = read("in." + "é" * 5_000, b"\xff" * 5_000, prefix="in")
    assert isinstance(outcome, Problem)
    Rejected.model_validate_json(
        json.dumps(
            {"problem": outcome.model_dump(), "sender": "x", "subject": "y", "rejected_at": "2026-01-01T00:00:00Z"}
        )
    )
