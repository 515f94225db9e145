"""The issuer's fold of who may speak, and pushes that coalesce."""

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

import nats
import pytest
from nats.aio.client import Client
from nats.aio.msg import Msg

from cli.stack.nats import EmbeddedNats
from domain.credential import Credential, Issue, Revoke, decide, evolve, machine_credential_id
from events.address import credential
from events.credential import CredentialIssued, CredentialKind, CredentialRevoked
from events.ids import HUB
from events.records import Problem
from events.words import Role
from services.issuer import register as registers
from services.issuer.push import CLAIMS_UPDATE, Pusher, PushFailed
from services.issuer.register import Register
from tests.harness import eventually

NOW = datetime(2026, 1, 1, tzinfo=UTC)
SOON = NOW + timedelta(seconds=60)


def issued(public: str, kind: CredentialKind = "client", expires_at: datetime | None = SOON) -> CredentialIssued:
    projects = () if kind == "operator" else ("webshop",)
    return CredentialIssued(
        kind=kind, name="x", role=Role.OPERATOR, projects=projects, public_key=public, expires_at=expires_at
    )


def test_a_revoked_key_stays_revoked_until_what_was_signed_for_it_ends() -> None:
    register, of = Register(), credential(HUB, uuid4())
    assert register.apply(of, issued("U1")) is None
    assert register.apply(of, CredentialRevoked()) == "webshop"
    until = int(SOON.timestamp())
    assert register.revocations("webshop", NOW) == ({"U1": until}, 0)
    assert register.revocations("webshop", SOON) == ({"U1": until}, 0)
    assert register.revocations("webshop", SOON + timedelta(seconds=1)) == ({}, 0)


def test_all_keys_of_a_credential_are_revoked_and_only_they() -> None:
    register, one, other = Register(), credential("webshop", uuid4()), credential("webshop", uuid4())
    for public in ("U1", "U2"):
        register.apply(one, issued(public, "machine"))
    register.apply(other, issued("U3", "machine"))
    register.apply(one, CredentialRevoked())
    assert set(register.revocations("webshop", NOW)[0]) == {"U1", "U2"}
    assert register.address_of(UUID(other.id)) == other


def test_events_heard_twice_or_late_change_nothing() -> None:
    register, of = Register(), credential(HUB, uuid4())
    for event in (issued("U1"), CredentialRevoked(), issued("U1"), CredentialRevoked(), CredentialRevoked()):
        register.apply(of, event)
    assert set(register.revocations("webshop", NOW)[0]) == {"U1"}
    assert len(register) == 0


def test_operators_are_revoked_in_their_own_account_and_for_good_when_they_never_expire() -> None:
    register, of = Register(), credential(HUB, uuid4())
    register.apply(of, issued("U1", "operator", None))
    assert register.apply(of, CredentialRevoked()) == HUB
    assert set(register.revocations(HUB, NOW + timedelta(days=36_500))[0]) == {"U1"}


def test_expired_credentials_are_forgotten() -> None:
    register = Register()
    register.apply(credential(HUB, uuid4()), issued("U1"))
    register.apply(credential(HUB, uuid4()), issued("U2", expires_at=None))
    register.forget_expired(SOON + timedelta(seconds=1))
    assert len(register) == 1


def test_too_many_revocations_keep_those_that_last_longest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registers, "REVOCATIONS_MAX", 2)
    register = Register()
    for place in range(3):
        of = credential(HUB, uuid4())
        register.apply(of, issued(f"U{place}", expires_at=SOON + timedelta(seconds=place)))
        register.apply(of, CredentialRevoked())
    kept, left_out = register.revocations("webshop", NOW)
    assert (set(kept), left_out) == ({"U1", "U2"}, 1)


def folded(*events: CredentialIssued | CredentialRevoked) -> Credential:
    state = Credential()
    for event in events:
        state = evolve(state, event)
    return state


def test_a_machines_epoch_may_renew_until_it_is_revoked_and_nobody_else_may() -> None:
    again = issued("U2", "machine")
    assert decide(Issue(again), folded(issued("U1", "machine"))) == [again]
    assert isinstance(decide(Issue(again), folded(issued("U1", "machine"), CredentialRevoked())), Problem)
    assert isinstance(decide(Issue(issued("U2")), folded(issued("U1"))), Problem)
    assert isinstance(decide(Issue(again), folded(issued("U1"))), Problem)


def test_revoking_is_said_once_and_only_of_what_there_is() -> None:
    assert decide(Revoke("left"), folded(issued("U1"))) == [CredentialRevoked(reason="left")]
    assert decide(Revoke("left"), folded(issued("U1"), CredentialRevoked())) == []
    nothing = decide(Revoke(), Credential())
    assert isinstance(nothing, Problem)
    assert nothing.code == "no_such_credential"


def test_an_incarnation_has_one_credential_and_every_other_another() -> None:
    machine_id = uuid4()
    ids = {
        machine_credential_id(slug, machine, epoch)
        for slug in ("a", "b")
        for machine in (machine_id, uuid4())
        for epoch in (1, 11)
    }
    assert len(ids) == 8
    assert machine_credential_id("a", machine_id, 1) in ids


class Server:
    """The end of the wire that takes accounts; slow, so that pushes meet."""

    def __init__(self, nc: Client) -> None:
        self.nc = nc
        self.taken: list[str] = []
        self.answers = asyncio.Event()
        self.code = 200

    async def take(self, message: Msg) -> None:
        self.taken.append(message.data.decode())
        await self.answers.wait()
        await message.respond(b'{"data": {"code": %d}}' % self.code)


async def made(server: EmbeddedNats, jwt_of: Callable[[str], str]) -> tuple[Server, Pusher, Client]:
    nc = await nats.connect(server.url)
    end = Server(nc)
    await nc.subscribe(CLAIMS_UPDATE, cb=end.take)
    await nc.flush()
    return end, Pusher(nc, jwt_of, timeout_s=2), nc


async def test_pushes_that_come_together_become_two_and_everyone_gets_what_was_true_when_it_asked(
    nats_server: EmbeddedNats,
) -> None:
    versions: dict[str, int] = {"webshop": 0}
    end, pusher, nc = await made(nats_server, lambda account: f"{account} {versions[account]}")
    pushes: list[asyncio.Task[None]] = []
    for version in range(1, 51):
        versions["webshop"] = version
        pushes.append(asyncio.create_task(pusher.push("webshop")))
        await asyncio.sleep(0)
    end.answers.set()
    await asyncio.gather(*pushes)
    assert end.taken == ["webshop 1", "webshop 50"]
    assert pusher.owed == set()
    assert pusher.known == {"webshop"}
    await nc.close()


async def test_what_the_server_refuses_stays_owed_until_it_is_taken(nats_server: EmbeddedNats) -> None:
    end, pusher, nc = await made(nats_server, lambda account: account)
    end.answers.set()
    end.code = 500
    with pytest.raises(PushFailed, match="500"):
        await pusher.push("webshop")
    assert pusher.owed == {"webshop"}
    end.code = 200
    await pusher.ensure("webshop")
    assert pusher.owed == set()
    await pusher.ensure("webshop")
    assert len(end.taken) == 2
    await nc.close()


async def test_a_server_that_does_not_answer_is_an_error_that_may_be_tried_again(nats_server: EmbeddedNats) -> None:
    nc = await nats.connect(nats_server.url)
    pusher = Pusher(nc, lambda account: account, timeout_s=0.1)
    with pytest.raises(PushFailed, match="no answer"):
        await pusher.push("webshop")
    assert pusher.owed == {"webshop"}
    await nc.close()
    await eventually(lambda: nc.is_closed)
