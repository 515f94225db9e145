"""Credentials end: by revocation within a second, by their time, and for good, whoever is killed."""

import asyncio
import hashlib
import json
import time
from uuid import UUID, uuid4

import pytest

from domain.credential import machine_credential_id
from events.address import credential
from events.credential import CredentialIssued, CredentialRevoked
from events.ids import HUB
from events.words import Role
from services.kit.apikeys import ApiKeys
from services.kit.credentials import CredentialsRefused
from tests.harness import eventually
from tests.security.conftest import Hub

REVOKED_WITHIN_S = 1.0


async def test_a_revoked_client_is_cut_within_a_second_and_stays_out_after_kill_9_of_the_server(hub: Hub) -> None:
    ann, credential_id = await hub.client("webshop")
    bob, _ = await hub.client("webshop", name="bob")
    began = time.monotonic()
    await hub.ask_credential(hub.bus.nc, credential_id, "CredentialRevokeRequested", reason="lost laptop")
    await eventually(lambda: not ann.nc.is_connected)
    assert time.monotonic() - began < REVOKED_WITHIN_S
    assert await hub.refuses(ann.creds)
    assert bob.nc.is_connected
    await bob.nc.close()
    hub.server.kill()
    await hub.server.start()
    assert await hub.refuses(ann.creds)
    assert not await hub.refuses(bob.creds)


async def test_a_machines_credentials_end_with_its_epoch_and_those_of_the_next_do_not(hub: Hub) -> None:
    machine_id = uuid4()
    first = await hub.machine("webshop", machine_id, epoch=1)
    second = await hub.machine("webshop", machine_id, epoch=2)
    began = time.monotonic()
    await hub.credentials.revoke("webshop", machine_id, 1, "fenced")
    await eventually(lambda: not first.nc.is_connected)
    assert time.monotonic() - began < REVOKED_WITHIN_S
    assert second.nc.is_connected
    await hub.credentials.revoke("webshop", machine_id, 1, "again")
    with pytest.raises(CredentialsRefused):
        await hub.credentials.machine("webshop", machine_id, 1, 60)


async def test_renewed_credentials_work_beside_the_old_and_are_revoked_with_them(hub: Hub) -> None:
    machine_id = uuid4()
    old, new = await hub.machine("webshop", machine_id), await hub.machine("webshop", machine_id)
    assert old.nc.is_connected
    await hub.credentials.revoke("webshop", machine_id, 1)
    await eventually(lambda: not old.nc.is_connected and not new.nc.is_connected)


async def test_a_machines_gateway_token_is_known_to_all_only_by_its_hash_and_is_new_each_time(hub: Hub) -> None:
    machine_id = uuid4()
    first = await hub.credentials.machine("webshop", machine_id, 1, 60)
    second = await hub.credentials.machine("webshop", machine_id, 1, 60)
    of = credential("webshop", machine_credential_id("webshop", machine_id, 1))
    issued = [each.event for each in (await hub.bus.log.load(of)).events if isinstance(each.event, CredentialIssued)]
    tokens = [first.gateway_token, second.gateway_token]
    assert [each.key_sha256 for each in issued] == [hashlib.sha256(each.encode()).hexdigest() for each in tokens]
    assert len(set(tokens)) == 2
    assert all(token.startswith("avm_") and len(token) == len("avm_") + 43 for token in tokens)
    assert not [token for token in tokens if token in repr(first) + repr(second) + "".join(map(repr, issued))]


async def test_a_hundred_revocations_at_once_all_hold(hub: Hub) -> None:
    machine_ids = [uuid4() for _ in range(100)]
    made = await asyncio.gather(*(hub.credentials.machine("webshop", m, 1, 600) for m in machine_ids))
    await asyncio.gather(*(hub.credentials.revoke("webshop", m, 1) for m in machine_ids))
    for one in (made[0], made[50], made[99]):
        path = hub.server.directory / f"{one.credential_id}.creds"
        path.write_text(one.creds)
        assert await hub.refuses(path)


async def test_nobody_loses_a_message_while_accounts_are_pushed(hub: Hub) -> None:
    """Each push replaces the account's imports on the server; a client that asks meanwhile must not notice."""
    ann, _ = await hub.client("webshop")
    machine_ids = [uuid4() for _ in range(60)]

    async def churn() -> None:
        for machine_id in machine_ids:
            await hub.credentials.machine("webshop", machine_id, 1, 600)
            await hub.credentials.revoke("webshop", machine_id, 1)

    churning = asyncio.create_task(churn())
    asked = 0
    while not churning.done():
        answer = await ann.nc.request(
            f"ask.webshop.machine.{uuid4()}.MachineRequested", b'{"goal":"x","machine_type":"shell"}', timeout=2
        )
        asked += json.loads(answer.data)["seq"] > 0
    await churning
    assert asked > 10


async def test_expired_credentials_are_worth_nothing(hub: Hub) -> None:
    agent = await hub.machine("webshop", uuid4(), ttl_s=1)
    await eventually(lambda: not agent.nc.is_connected)
    await eventually(lambda: hub.refuses(agent.creds))  # the server counts whole seconds


async def test_an_operators_revocation_survives_a_restart_of_everything(hub: Hub) -> None:
    credential_id = uuid4()
    said = await hub.ask_credential(
        hub.bus.nc, credential_id, "CredentialRequested", kind="operator", name="eve", role=Role.OPERATOR
    )
    eve = await hub.connect(json.loads(said.data)["creds"])
    await hub.ask_credential(hub.bus.nc, credential_id, "CredentialRevokeRequested")
    await eventually(lambda: not eve.nc.is_connected)
    hub.server.kill()
    await hub.server.start()
    assert await hub.refuses(eve.creds)


async def test_only_operators_and_the_hub_may_ask_for_credentials(hub: Hub) -> None:
    root = await hub.operator()
    ann, _ = await hub.client("webshop")
    asked = {"kind": "client", "name": "mallory", "role": "operator", "projects": ["other"]}
    assert not await ann.may_say(f"ask._hub.credential.{uuid4()}.CredentialRequested", json.dumps(asked).encode())
    said = await hub.ask_credential(root.nc, uuid4(), "CredentialRequested", **asked)
    assert json.loads(said.data)["creds"]


async def test_even_if_an_account_were_let_through_the_issuer_asks_the_server_who_it_is(hub: Hub) -> None:
    body = json.dumps({"kind": "operator", "name": "mallory", "role": "admin"}).encode()
    forged = {"Nats-Request-Info": json.dumps({"acc": "ABCD", "name_tag": "mallory"})}
    said = await hub.bus.nc.request(f"ask._hub.credential.{uuid4()}.CredentialRequested", body, 5, headers=forged)
    assert (said.headers or {})["Nats-Service-Error-Code"] == "403"


async def test_an_api_key_is_told_once_and_only_its_digest_is_kept(hub: Hub) -> None:
    credential_id = uuid4()
    said = await hub.ask_credential(
        hub.bus.nc,
        credential_id,
        "CredentialRequested",
        kind="api_key",
        name="ci",
        role="operator",
        projects=["webshop"],
    )
    api_key = json.loads(said.data)["api_key"]
    history = await hub.bus.log.load(credential(HUB, credential_id))
    (issued,) = [recorded.event for recorded in history.events]
    assert isinstance(issued, CredentialIssued)
    assert issued.key_sha256 == hashlib.sha256(api_key.encode()).hexdigest()
    assert len(api_key) >= 43
    async with ApiKeys(hub.bus.log).following() as keys:
        principal = keys.authenticate(api_key)
        assert principal
        assert (principal.role, principal.projects, principal.name) == (Role.OPERATOR, ("webshop",), "ci")
        await hub.ask_credential(hub.bus.nc, credential_id, "CredentialRevokeRequested")
        await eventually(lambda: keys.authenticate(api_key) is None)


async def test_no_secret_is_ever_in_the_log(hub: Hub) -> None:
    ann, _ = await hub.client("webshop")
    await hub.machine("webshop", uuid4())
    seeds = {line for line in ann.creds.read_text().splitlines() if line.startswith("SU")}
    assert len(seeds) == 1
    bodies = [message.data async for batch in hub.bus.log.follow_raw(stop_at_end=True) for message in batch]
    assert not [body for body in bodies if b'"SU' in body or b"eyJ0" in body or b"BEGIN" in body]


@pytest.mark.parametrize(
    "asked",
    [
        {"kind": "client", "name": "a", "projects": []},
        {"kind": "client", "name": "a", "projects": ["webshop", "other"]},
        {"kind": "client", "name": "a", "projects": ["webshop"], "role": "admin"},
        {"kind": "client", "name": "a", "projects": ["nowhere"]},
        {"kind": "client", "name": "a", "projects": ["*"]},
        {"kind": "client", "name": "a", "projects": [">"]},
        {"kind": "client", "name": "", "projects": ["webshop"]},
        {"kind": "api_key", "name": "a", "role": "viewer", "projects": []},
        {"kind": "api_key", "name": "a", "role": "admin", "projects": ["webshop"]},
        {"kind": "operator", "name": "a", "role": "admin", "projects": ["webshop"]},
        {"kind": "machine", "name": "a", "projects": ["webshop"]},
        {"kind": "client", "name": "a", "projects": ["webshop"], "ttl_s": 0},
        {"kind": "client", "name": "a", "projects": ["webshop"], "hidden": 1},
    ],
)
async def test_a_senseless_wish_is_refused_with_its_reason(hub: Hub, asked: dict[str, object]) -> None:
    credential_id = uuid4()
    said = await hub.ask_credential(hub.bus.nc, credential_id, "CredentialRequested", **asked)
    assert (said.headers or {})["Nats-Service-Error-Code"].startswith("4")
    assert json.loads(said.data)["message"]
    assert (await hub.bus.log.load(credential(HUB, credential_id))).events == ()


async def test_issuing_and_revoking_are_events_with_their_actor(hub: Hub) -> None:
    root = await hub.operator()
    credential_id = uuid4()
    await hub.ask_credential(
        root.nc, credential_id, "CredentialRequested", kind="client", name="ann", projects=["webshop"]
    )
    await hub.ask_credential(root.nc, credential_id, "CredentialRevokeRequested", reason="left")
    history = await hub.bus.log.load(credential(HUB, credential_id))
    assert [type(recorded.event) for recorded in history.events] == [CredentialIssued, CredentialRevoked]
    assert {recorded.envelope.cause.actor for recorded in history.events} == {"operator:operator"}
    unknown = await hub.ask_credential(root.nc, UUID(int=1), "CredentialRevokeRequested")
    assert (unknown.headers or {})["Nats-Service-Error-Code"] == "404"


async def test_a_machine_gets_nothing_where_there_is_no_project_or_for_longer_than_allowed(hub: Hub) -> None:
    for slug, ttl_s in (("nowhere", 60), ("*", 60), ("webshop", 0), ("webshop", 32 * 86_400), ("webshop", 10**12)):
        with pytest.raises(CredentialsRefused, match=r"40[04]"):
            await hub.credentials.machine(slug, uuid4(), 1, ttl_s)
    with pytest.raises(CredentialsRefused, match="400"):
        await hub.credentials.machine("webshop", uuid4(), 0, 60)


async def test_an_incarnation_without_credentials_has_none_to_lose(hub: Hub) -> None:
    await hub.credentials.revoke("webshop", uuid4(), 1)


async def test_history_says_that_the_spawner_asked_for_a_machines_credentials(hub: Hub) -> None:
    machine_id = uuid4()
    made = await hub.credentials.machine("webshop", machine_id, 3, 60)
    last = await hub.bus.log.last(credential("webshop", made.credential_id))
    assert last
    assert isinstance(last.event, CredentialIssued)
    assert (last.envelope.cause.actor, last.event.machine_id, last.event.epoch) == ("spawner", machine_id, 3)
    assert last.event.expires_at == made.expires_at


async def test_a_secret_is_shown_once(hub: Hub) -> None:
    credential_id = uuid4()
    wish = {"kind": "api_key", "name": "ci", "role": "admin"}
    first = await hub.ask_credential(hub.bus.nc, credential_id, "CredentialRequested", **wish)
    assert json.loads(first.data)["api_key"]
    again = await hub.ask_credential(hub.bus.nc, credential_id, "CredentialRequested", **wish)
    assert (again.headers or {})["Nats-Service-Error-Code"] == "409"
    assert "api_key" not in json.loads(again.data)


@pytest.mark.parametrize(
    ("subject", "body"),
    [
        ("issuer.revoke", b"{}"),
        ("issuer.revoke", b"not json"),
        ("issuer.machine", b"\xff"),
        ("issuer.machine", b"[" * 10_000),
        ("ask._hub.credential.x.CredentialRequested", b'{"kind": "operator", "name": "a"}'),
        ("ask._hub.credential.x.CredentialRevokeRequested", b"{}"),
        ("ask._hub.credential.x.CredentialRevokeRequested", b'{"no": 1}'),
    ],
)
async def test_nonsense_is_answered_and_the_issuer_goes_on(hub: Hub, subject: str, body: bytes) -> None:
    said = await hub.bus.nc.request(subject, body, timeout=5)
    assert (said.headers or {})["Nats-Service-Error-Code"] == "400"
    assert (await hub.credentials.machine("webshop", uuid4(), 1, 60)).creds


async def test_a_credential_can_be_revoked_by_its_id_alone(hub: Hub) -> None:
    machine_id = uuid4()
    agent = await hub.machine("webshop", machine_id)
    made = machine_credential_id("webshop", machine_id, 1)
    await eventually(lambda: _known(hub, made))
    await hub.bus.nc.request("issuer.revoke", json.dumps({"credential_id": str(made)}).encode(), timeout=5)
    await eventually(lambda: not agent.nc.is_connected)


async def test_a_machines_credential_that_is_revoked_by_its_id_again_is_revoked_still(hub: Hub) -> None:
    machine_id = uuid4()
    await hub.machine("webshop", machine_id)
    made = machine_credential_id("webshop", machine_id, 1)
    for _ in range(3):
        said = await hub.bus.nc.request("issuer.revoke", json.dumps({"credential_id": str(made)}).encode(), timeout=5)
        assert (said.headers, said.data) == (None, b"{}")
    unknown = json.dumps({"credential_id": str(uuid4())}).encode()
    said = await hub.bus.nc.request("issuer.revoke", unknown, timeout=5)
    assert b"no_such_credential" in said.data


async def _known(hub: Hub, credential_id: UUID) -> bool:
    """The issuer hears its own words back from the log."""
    said = (await hub.issuer.health()).parts[-1].detail
    last = await hub.bus.log.last(credential("webshop", credential_id))
    return last is not None and said.endswith(f"seq {last.seq}")
