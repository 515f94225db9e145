"""Servers that are already there, instead of embedded ones."""

from pathlib import Path

import pytest

from cli.stack.nats import EmbeddedNats, NatsConfig, OperatorMode
from cli.stack.postgres import EmbeddedPostgres
from events.fresh import now
from services.issuer.bootstrap import prepare
from services.issuer.keys import KeyStore
from tests.harness.hub import running_hub
from tests.harness.places import short_directory

pytestmark = pytest.mark.timeout(120)


async def test_a_hub_works_with_a_nats_and_a_postgresql_that_are_already_there(tmp_path: Path) -> None:
    with short_directory() as place:
        prepared = prepare(KeyStore(place / "keys"), place / "creds", resolver=place / "accounts", at=now())
        operator = OperatorMode(
            prepared.operator_jwt, prepared.system_account, prepared.resolver, preload=prepared.preload
        )
        async with (
            EmbeddedNats(place / "nats", NatsConfig(operator=operator)) as nats,
            EmbeddedPostgres(place / "postgres") as postgres,
        ):
            await postgres.create_database("elsewhere")
            given = ("--nats-url", nats.url, "--nats-creds", str(prepared.hub_creds), "--keys", str(place / "keys"))
            system = ("--nats-system-creds", str(prepared.system_creds))
            async with running_hub(*given, *system, "--database-url", postgres.dsn("elsewhere")) as hub:
                (tmp_path / "README").write_text("one\n")
                await hub.ok("project", "create", "guest", "--from", str(tmp_path))
                assert (await hub.ok("run", "guest", "cat README")).out == "one\n"
                assert (await hub.ok("verify", "--json")).only()["ok"]
                assert not (hub.data / "postgres").exists()
                assert not (hub.data / "nats" / "store").exists()
