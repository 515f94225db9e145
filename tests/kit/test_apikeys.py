"""API keys: known from the log, forgotten when revoked or expired, never kept in clear."""

import hashlib
from datetime import timedelta

from events import address, fresh
from events.credential import CredentialIssued, CredentialRevoked
from events.envelope import Cause
from events.words import Role
from services.kit.apikeys import ApiKeys
from services.kit.bus import Bus
from services.kit.log import Write
from tests.harness import eventually

CAUSE = Cause("issuer")


async def issue(
    bus: Bus, key: str, role: Role = Role.VIEWER, *, expires_in_s: float = 60, kind: str = "api_key"
) -> Write:
    event = CredentialIssued.model_validate(
        {
            "kind": kind,
            "name": key,
            "role": role,
            "projects": ["webshop"],
            "key_sha256": hashlib.sha256(key.encode()).hexdigest(),
            "expires_at": fresh.now() + timedelta(seconds=expires_in_s),
        }
    )
    where = address.credential("_hub", fresh.uuid7())
    done = await bus.log.append(Write(where, 0, (event,)), cause=CAUSE)
    return Write(where, done.seq, (CredentialRevoked(reason="lost"),))


async def test_a_key_says_who_asks_and_what_they_may_see(bus: Bus) -> None:
    await issue(bus, "secret-1", Role.OPERATOR)
    async with ApiKeys(bus.log).following() as keys:
        principal = keys.authenticate("secret-1")
        assert principal is not None
        assert (principal.role, principal.name, principal.may_write) == (Role.OPERATOR, "secret-1", True)
        assert principal.may_see("webshop")
        assert not principal.may_see("other")
        assert keys.health().ok


async def test_a_key_made_later_is_known_and_a_revoked_one_forgotten(bus: Bus) -> None:
    async with ApiKeys(bus.log).following() as keys:
        revocation = await issue(bus, "secret-2")
        await eventually(lambda: keys.authenticate("secret-2"))
        await bus.log.append(revocation, cause=CAUSE)
        await eventually(lambda: keys.authenticate("secret-2") is None)


async def test_what_is_no_key_opens_nothing(bus: Bus) -> None:
    await issue(bus, "expired", expires_in_s=-1)
    await issue(bus, "a machine's", kind="machine")
    async with ApiKeys(bus.log).following() as keys:
        digest = hashlib.sha256(b"expired").hexdigest()
        for bearer in ("", "guess", "expired", "a machine's", digest, "x" * 100_000, "\udcff"):
            assert keys.authenticate(bearer) is None
    assert not keys.health().ok
