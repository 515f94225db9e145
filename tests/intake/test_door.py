"""The door on a real server, knocked at by plain nats-py."""

import asyncio
import json
import random
from uuid import UUID, uuid4

import pytest

from cli.stack.nats import EmbeddedNats
from domain.door import Request
from events.address import checkpoint, machine
from events.base import BODY_BYTES_MAX
from events.checkpoint import CheckpointCorrupted
from events.machine import MachineEnded, MachineRequested
from events.words import MachineType, Outcome
from services.intake.admit import Admission
from services.intake.app import IntakeSettings, create_app
from services.intake.knock import Sender, cause, log_id
from services.kit.bus import Bus
from services.kit.log import Write
from tests.harness import eventually
from tests.intake.conftest import GOAL, HISTORY, Knocker, a_machine, given_checkpoint, given_project


async def test_a_bare_publish_without_headers_becomes_an_event(door: Knocker) -> None:
    await given_project(door.bus, "webshop")
    subject = a_machine()
    await door.publish(subject, GOAL)
    await door.handled()
    (recorded,) = await door.of("MachineRequested")
    assert recorded.envelope.address.subject("MachineRequested", "in") == f"in.{subject}"
    assert recorded.event == MachineRequested(goal="make test", machine_type=MachineType.SHELL)
    assert recorded.envelope.cause.actor == "project:webshop"


async def test_an_answer_says_where_in_the_log_it_stands(door: Knocker) -> None:
    await given_project(door.bus, "webshop")
    answer = await door.ask(a_machine(), GOAL)
    (recorded,) = await door.of("MachineRequested")
    assert (answer.seq, UUID(answer.id), answer.duplicate) == (recorded.seq, recorded.envelope.id, False)


async def test_a_project_and_its_machine_may_be_published_in_one_breath(door: Knocker) -> None:
    await asyncio.gather(
        door.publish("shop.project.shop.ProjectCreated", {}),
        *(door.publish(a_machine("shop"), GOAL) for _ in range(5)),
    )
    await door.handled()
    assert len(await door.of("MachineRequested")) == 5


async def test_the_same_id_twice_is_one_event_and_the_old_seq(door: Knocker) -> None:
    await given_project(door.bus, "webshop")
    subject = a_machine()
    first = await door.ask(subject, GOAL, ce_id="order-1")
    again = await door.ask(subject, GOAL, ce_id="order-1")
    assert (again.seq, again.id, again.duplicate) == (first.seq, first.id, True)
    assert len(await door.of("MachineRequested")) == 1


async def test_ten_at_once_with_one_id_are_one_event(door: Knocker) -> None:
    await given_project(door.bus, "webshop")
    subject = a_machine()
    answers = await asyncio.gather(*(door.ask(subject, GOAL, Nats_Msg_Id="x") for _ in range(10)))
    assert len({answer.seq for answer in answers}) == 1
    assert sum(not answer.duplicate for answer in answers) == 1


async def test_a_known_id_with_another_body_is_refused(door: Knocker) -> None:
    await given_project(door.bus, "webshop")
    subject = a_machine()
    first = await door.ask(subject, GOAL, ce_id="order-1")
    other = await door.ask(subject, GOAL | {"goal": "something else"}, ce_id="order-1")
    assert other.problem
    assert (other.code, other.problem.code) == ("409", "id_reused")
    assert str(first.seq) in other.problem.message


async def test_one_id_may_name_messages_to_two_machines_without_meeting(door: Knocker) -> None:
    await given_project(door.bus, "webshop")
    answers = [await door.ask(a_machine(), GOAL, ce_id="1") for _ in range(2)]
    assert [answer.duplicate for answer in answers] == [False, False]
    assert 0 < answers[0].seq < answers[1].seq
    assert answers[0].id != answers[1].id


async def test_a_machine_is_requested_once_whatever_the_id(door: Knocker) -> None:
    await given_project(door.bus, "webshop")
    subject = a_machine()
    await door.ask(subject, GOAL)
    again = await door.ask(subject, GOAL)
    assert again.problem
    assert again.problem.code == "conflict"


@pytest.mark.parametrize(
    ("subject", "body", "code"),
    [
        ("webshop.machine.{id}.MachineRequestd", GOAL, "unknown_type"),
        ("webshop.machine.{id}.MachineAdmitted", {}, "not_allowed"),
        ("webshop.machine.{id}.MachineRequested", GOAL | {"gaol": 1}, "bad_body"),
        ("webshop.machine.{id}.MachineRequested", GOAL | {"goal": 7}, "bad_body"),
        ("webshop.machine.{id}.MachineRequested", GOAL | {"goal": "x" * 100_000}, "bad_body"),
        ("webshop.machine.{id}.MachineRequested", GOAL | {"machine_type": "toaster"}, "bad_body"),
        ("webshop.machine.{id}.MachineRequested", GOAL | {"machine_type": "hub"}, "not_runnable"),
        ("webshop.machine.{id}.MachineRequested", GOAL | {"budget": "-1"}, "bad_body"),
        ("webshop.machine.{id}.MachineRequested", GOAL | {"budget": "NaN"}, "bad_body"),
        ("webshop.machine.{id}.MachineRequested", GOAL | {"budget": 1.5}, "bad_body"),
        ("webshop.machine.{id}.MachineRequested", GOAL | {"goal": "a\0b"}, "bad_body"),
        ("webshop.machine.{id}.MachineRequested", GOAL | {"files": [{"path": "../x", "text": ""}]}, "bad_body"),
        ("webshop.machine.{id}.MachineRequested", GOAL | {"from_checkpoint_id": str(uuid4())}, "no_such_checkpoint"),
        ("webshop.machine.{id}.MachineRequested", b"{not json", "bad_body"),
        ("webshop.machine.{id}.MachineRequested", b"", "bad_body"),
        ("webshop.machine.{id}.MachineRequested", b'{"goal": "\xff"}', "bad_body"),
        ("webshop.machine.{id}.MachineRequested", b"[" * 5_000, "bad_body"),
        ("webshop.machine.{id}.MachineRequested", b" " * (BODY_BYTES_MAX + 1), "too_large"),
        ("webshop.machine.not-a-uuid.MachineRequested", GOAL, "bad_subject"),
        ("webshop.machine.{ID}.MachineRequested", GOAL, "bad_subject"),
        ("webshop.machine.{id}.MachineStopRequested", {}, "no_such_machine"),
        ("webshop.project.{id}.ProjectUpdated", {}, "bad_subject"),
        ("webshop.checkpoint.{id}.CheckpointRequested", {"machine_id": str(uuid4())}, "no_such_machine"),
        ("webshop.checkpoint.{id}.CheckpointPinned", {}, "no_such_checkpoint"),
        ("webshop.budget.{id}.BudgetRequested", {"amount": "1", "unit": "CAD"}, "no_such_machine"),
        ("webshop.checkpoint.{id}.MachineRequested", GOAL, "bad_subject"),
        ("webshop.project.webshop.ProjectCreated", {}, "conflict"),
        ("elsewhere.machine.{id}.MachineRequested", GOAL, "no_such_project"),
        ("Web_Shop.machine.{id}.MachineRequested", GOAL, "bad_subject"),
        ("_hub.machine.{id}.MachineRequested", GOAL, "not_allowed"),
        ("_hub.budget.webshop.BudgetRequested", {"amount": "1", "unit": "CAD"}, "bad_subject"),
    ],
)
async def test_what_cannot_be_is_refused_with_its_reason_by_both_doors(
    door: Knocker, subject: str, body: object, code: str
) -> None:
    await given_project(door.bus, "webshop")
    machine_id = str(uuid4())
    spelled = subject.format(id=machine_id, ID="0198C1D2-0000-7000-8000-00000000000A")
    answer = await door.ask(spelled, body)
    assert answer.problem
    assert answer.problem.code == code
    assert answer.code.startswith("4")
    assert answer.problem.message
    await door.publish(spelled, body)
    ((rejected_at, rejected),) = await door.rejections(1)
    assert rejected.problem == answer.problem
    assert rejected_at == f"rejected.{spelled}"
    assert len(await door.events()) == 1


async def test_zero_is_a_valid_cap(door: Knocker) -> None:
    await given_project(door.bus, "webshop")
    assert (await door.ask(a_machine(), GOAL | {"budget": "0"})).seq
    assert (await door.ask("webshop.budget.webshop.BudgetRequested", {"amount": "0", "unit": "CAD"})).seq
    assert (await door.ask("_hub.budget._hub.BudgetRequested", {"amount": "0", "unit": "CAD"})).seq


async def test_a_refusal_names_field_value_limit_and_remedy(door: Knocker) -> None:
    await given_project(door.bus, "webshop")
    answer = await door.ask(a_machine(), GOAL | {"limits": {"memory_mib": 1}})
    assert answer.problem
    assert (answer.problem.field, answer.problem.value, answer.problem.limit) == ("limits.memory_mib", "1", "ge 16")
    unknown = await door.ask(a_machine(), GOAL | {"limit": 1})
    assert unknown.problem
    assert "limits" in unknown.problem.remedy


async def test_another_projects_checkpoint_does_not_exist_here(door: Knocker) -> None:
    await given_project(door.bus, "webshop")
    await given_project(door.bus, "other")
    theirs = await given_checkpoint(door.bus, "other")
    ours = await given_checkpoint(door.bus, "webshop")
    machine_from = await door.ask(a_machine(), GOAL | {"from_checkpoint_id": str(theirs)})
    trunk_to = await door.ask("webshop.project.webshop.ProjectUpdated", {"current_checkpoint_id": str(theirs)})
    nowhere = await door.ask(a_machine(), GOAL | {"from_checkpoint_id": str(uuid4())})
    assert machine_from.problem
    assert trunk_to.problem
    assert nowhere.problem
    assert machine_from.problem.code == trunk_to.problem.code == "no_such_checkpoint"
    assert machine_from.problem.message.replace(str(theirs), "") == nowhere.problem.message.replace(
        nowhere.problem.value, ""
    )
    assert (await door.ask(a_machine(), GOAL | {"from_checkpoint_id": str(ours)})).seq


async def test_a_corrupt_checkpoint_is_not_started_from(door: Knocker) -> None:
    await given_project(door.bus, "webshop")
    checkpoint_id = await given_checkpoint(door.bus, "webshop")
    of = checkpoint("webshop", checkpoint_id)
    history = await door.bus.log.load(of)
    await door.bus.log.append(Write(of, history.seq, (CheckpointCorrupted(reason="bits"),)), cause=HISTORY)
    answer = await door.ask(a_machine(), GOAL | {"from_checkpoint_id": str(checkpoint_id)})
    assert answer.problem
    assert answer.problem.code == "conflict"
    assert "corrupt" in answer.problem.message


async def test_an_ended_machine_takes_no_more_requests(door: Knocker) -> None:
    await given_project(door.bus, "webshop")
    machine_id = uuid4()
    asked = await door.ask(a_machine("webshop", machine_id), GOAL)
    assert (await door.ask(f"webshop.machine.{machine_id}.MachineStopRequested", {})).seq > asked.seq
    of = machine("webshop", machine_id)
    seq = (await door.bus.log.load(of)).seq
    await door.bus.log.append(Write(of, seq, (MachineEnded(outcome=Outcome.SUCCEEDED),)), cause=HISTORY)
    late = await door.ask(f"webshop.checkpoint.{uuid4()}.CheckpointRequested", {"machine_id": str(machine_id)})
    assert late.problem
    assert late.problem.code == "conflict"


async def test_a_paused_project_takes_settings_but_no_work_and_an_archived_one_nothing(door: Knocker) -> None:
    await given_project(door.bus, "webshop")
    update = "webshop.project.webshop.ProjectUpdated"
    assert (await door.ask(update, {"status": "paused"})).seq
    paused = await door.ask(a_machine(), GOAL)
    assert paused.problem
    assert paused.problem.code == "project_paused"
    assert (await door.ask(update, {"status": "active"})).seq
    assert (await door.ask(a_machine(), GOAL)).seq
    assert (await door.ask("webshop.project.webshop.ProjectArchived", {})).seq
    for subject, body in ((update, {"status": "active"}), (a_machine(), GOAL)):
        archived = await door.ask(subject, body)
        assert archived.problem
        assert archived.problem.code == "project_archived"


async def test_odd_tokens_end_in_a_rejection_that_can_be_read(door: Knocker) -> None:
    for subject in ("in.webshop.machine", "in.web$hop.machine.a.B", "in.a.b.c.d.e.f", "in.é.machine.x.Y"):
        await door.nc.publish(subject, b"{}")
    subjects = {subject for subject, rejected in await door.rejections(4) if rejected.problem.code == "bad_subject"}
    assert subjects == {
        "rejected.webshop.machine._._",
        "rejected._.machine.a.B",
        "rejected.a.b.c.d",
        "rejected._.machine.x.Y",
    }


async def test_bytes_that_are_no_text_in_subject_and_headers_are_refused_and_the_door_stays_open(
    nats_server: EmbeddedNats, door: Knocker
) -> None:
    await given_project(door.bus, "webshop")
    reader, writer = await asyncio.open_connection("127.0.0.1", nats_server.port)
    await reader.readline()
    subject = a_machine().encode()
    header = b"NATS/1.0\r\nce-id: \xff\xfe\r\nx: \xc3\x28\r\n\r\n"
    writer.write(b'CONNECT {"verbose":false,"headers":true}\r\n')
    writer.write(b"PUB in.webshop.machine.\xff\xfe.MachineRequested 2\r\n{}\r\n")
    writer.write(b"PUB in.webshop.machine.a\x0bb\x0c.MachineRequested 2\r\n{}\r\n")
    writer.write(b"PUB ask.webshop.machine.\xff.MachineRequested _INBOX.nobody 2\r\n{}\r\n")
    writer.write(b"HPUB in.%b %d %d\r\n%b{}\r\n" % (subject, len(header), len(header) + 2, header))
    writer.write(b"PING\r\n")
    await writer.drain()
    rejections = await door.rejections(3)
    assert [rejected.problem.code for _, rejected in rejections].count("bad_subject") == 2
    assert [rejected.problem.code for _, rejected in rejections].count("bad_body") == 1
    assert (await door.ask(a_machine(), GOAL)).seq
    writer.close()


async def test_one_project_in_haste_is_refused_and_another_is_not(nats_server: EmbeddedNats, bus: Bus) -> None:
    settings = IntakeSettings(nats_url=nats_server.url, door_rate_per_s=0.001, door_burst=3)
    await given_project(bus, "hasty")
    await given_project(bus, "calm")
    async with create_app(bus, settings):
        knocker = Knocker(bus.nc, bus)
        answers = [await knocker.ask(a_machine("hasty"), GOAL) for _ in range(4)]
        assert [answer.code for answer in answers] == ["", "", "", "429"]
        assert (await knocker.ask(a_machine("calm"), GOAL)).seq


async def test_the_door_is_found_by_discovery(door: Knocker) -> None:
    found = json.loads((await door.nc.request("$SRV.INFO.autovibe-intake", b"", timeout=2)).data)
    assert {endpoint["subject"] for endpoint in found["endpoints"]} == {
        f"ask.*.{aggregate}.*.*" for aggregate in ("project", "machine", "checkpoint", "budget")
    }


async def test_a_knock_delivered_again_after_its_append_is_not_appended_twice(door: Knocker, bus: Bus) -> None:
    """The door died after the append and before the acknowledgement: IN delivers again, whenever that is."""
    await given_project(bus, "webshop")
    subject = a_machine()
    seq = await door.publish(subject, GOAL, {"ce-id": "order-1"})
    await door.handled()
    assert seq
    admission = Admission(bus.log, frozenset(MachineType), {}, deadline_s=5)
    of = (await door.of("MachineRequested"))[0]
    request = Request(of.envelope.address, of.event)
    sender = Sender("project:webshop", "project:webshop")
    outcome = await admission.admit(request, log_id(sender, request, "order-1"), cause(sender))
    assert getattr(outcome, "duplicate", None) is True
    assert getattr(outcome, "seq", None) == of.seq


async def test_what_was_published_while_the_door_was_closed_is_heard_when_it_opens(
    nats_server: EmbeddedNats, bus: Bus
) -> None:
    knocker = Knocker(bus.nc, bus)
    await given_project(bus, "webshop")
    for _ in range(20):
        await knocker.publish(a_machine(), GOAL)
    async with create_app(bus, IntakeSettings(nats_url=nats_server.url)):
        await knocker.handled()
    assert len(await knocker.of("MachineRequested")) == 20


async def test_whatever_is_published_ends_as_an_event_or_as_a_refusal_and_nothing_else(
    nats_server: EmbeddedNats, door: Knocker
) -> None:
    chance = random.Random(20_261_120)
    await given_project(door.bus, "webshop")
    reader, writer = await asyncio.open_connection("127.0.0.1", nats_server.port)
    await reader.readline()
    writer.write(b'CONNECT {"verbose":false,"headers":true}\r\n')
    alphabet = [byte for byte in range(1, 256) if byte not in b" \t\r\n.*>"]
    for _ in range(400):
        odd = bytes(chance.choices(alphabet, k=chance.randint(1, 9)))
        subject = chance.choice((a_machine().encode(), b"webshop.machine." + odd + b".MachineRequested", odd))
        text = chance.choice(
            (json.dumps(GOAL).encode(), chance.randbytes(30), b"", json.dumps(GOAL | {"x": 1}).encode())
        )
        header = b"NATS/1.0\r\n%b: %b\r\n\r\n" % (chance.choice((b"ce-id", b"Nats-Msg-Id", b"x")), odd)
        writer.write(b"HPUB in.%b %d %d\r\n%b%b\r\n" % (subject, len(header), len(header) + len(text), header, text))
    writer.write(b"PING\r\n")
    await writer.drain()
    assert await reader.readuntil(b"PONG\r\n") == b"PONG\r\n"

    async def all_answered() -> bool:
        published = (await door.bus.js.stream_info("IN")).state.last_seq
        # A few of the random message ids are the same, and the server keeps the first.
        assert 380 < published == len(await door.of("MachineRequested")) + len(await door.rejections(1))
        return True

    await eventually(all_answered)
    writer.close()
