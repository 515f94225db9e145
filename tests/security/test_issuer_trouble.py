"""The issuer in trouble: started again, its server emptied, another instance beside it."""

import json
import shutil
from uuid import uuid4

import pytest

from services.issuer.app import IssuerSettings, create_app
from services.kit.bus import Bus
from services.kit.credentials import IssuerUnreachable
from services.kit.settings import BusSettings
from tests.harness import eventually
from tests.security.conftest import Hub


def settings(hub: Hub) -> IssuerSettings:
    return IssuerSettings(issuer_keys=hub.prepared.resolver.parent / "keys", push_retry_s=0.1)


async def test_accounts_and_revocations_come_back_when_the_server_has_lost_them_and_the_issuer_starts_anew(
    hub: Hub,
) -> None:
    ann, _ = await hub.client("webshop")
    bob, credential_id = await hub.client("webshop", name="bob")
    await hub.ask_credential(hub.bus.nc, credential_id, "CredentialRevokeRequested")
    await eventually(lambda: not bob.nc.is_connected)
    await ann.nc.close()
    await hub.server.stop()
    for jwt in hub.prepared.resolver.iterdir():
        shutil.rmtree(jwt) if jwt.is_dir() else jwt.unlink()
    await hub.server.start()
    assert await hub.refuses(ann.creds)
    await eventually(lambda: hub.system.nc.is_connected and hub.bus.nc.is_connected)
    async with create_app(hub.bus, hub.system.nc, settings(hub)):
        await eventually(lambda: _lets_in(hub, ann.creds.read_text()))
        assert await hub.refuses(bob.creds)


async def test_a_second_issuer_never_undoes_what_the_first_revoked(hub: Hub) -> None:
    as_hub = BusSettings(nats_url=hub.server.url, nats_creds=hub.prepared.hub_creds)
    async with Bus.connect(as_hub, name="second") as bus, create_app(bus, hub.system.nc, settings(hub)) as second:
        gone = [await hub.client("webshop", name=f"c{number}") for number in range(4)]
        for _, credential_id in gone:
            await hub.ask_credential(hub.bus.nc, credential_id, "CredentialRevokeRequested")
            await hub.credentials.machine("webshop", uuid4(), 1, 60)
        for person, _ in gone:
            await eventually(lambda person=person: not person.nc.is_connected)

        async def both_have_settled() -> bool:
            return (await second.health()).ok and (await hub.issuer.health()).ok

        await eventually(both_have_settled)
        for person, _ in gone:
            assert await hub.refuses(person.creds)


async def test_without_an_issuer_the_spawner_hears_that_it_may_ask_again(hub: Hub) -> None:
    await hub.issuer.__aexit__(None, None, None)
    with pytest.raises(IssuerUnreachable):
        await hub.credentials.machine("webshop", uuid4(), 1, 60)


async def test_what_cannot_be_pushed_is_not_answered_as_done(hub: Hub) -> None:
    ann, credential_id = await hub.client("webshop")
    await hub.system.nc.close()
    said = await hub.ask_credential(hub.bus.nc, credential_id, "CredentialRevokeRequested")
    assert (said.headers or {})["Nats-Service-Error-Code"] == "503"
    assert json.loads(said.data)["code"] == "unavailable"
    assert ann.nc.is_connected
    assert not (await hub.issuer.health()).ok


async def _lets_in(hub: Hub, creds: str) -> bool:
    path = hub.server.directory / "again.creds"
    path.write_text(creds)
    return not await hub.refuses(path)
