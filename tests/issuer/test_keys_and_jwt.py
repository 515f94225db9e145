"""Keys and what is signed with them, without a server."""

import base64
import os
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import cast

import nacl.signing
import pytest

from events.words import Role
from services.issuer import accounts
from services.issuer.bootstrap import LONG_AGO, prepare
from services.issuer.jwt import Key, KeyKind, Permissions, account_jwt, claims_of, creds_text, user_jwt
from services.issuer.keys import KeyStore, UnsafeKeys, write_secret

AT = datetime(2026, 1, 1, tzinfo=UTC)


def a_key(kind: KeyKind, byte: int = 1) -> Key:
    return Key.of(kind, bytes([byte]) * 32)


@pytest.mark.parametrize(("kind", "letter"), [(KeyKind.OPERATOR, "O"), (KeyKind.ACCOUNT, "A"), (KeyKind.USER, "U")])
def test_a_key_says_what_it_is_for_and_never_shows_its_seed(kind: KeyKind, letter: str) -> None:
    key = a_key(kind)
    assert key.public.startswith(letter)
    assert key.seed.startswith(f"S{letter}")
    assert key.seed not in repr(key)
    assert Key.read(key.seed) == key


@pytest.mark.parametrize("text", ["", "S", "hello", "é", "SUAA", "U" * 58])
def test_what_is_no_seed_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r".+"):
        Key.read(text)


def test_a_jwt_is_signed_by_its_issuer() -> None:
    operator, account = a_key(KeyKind.OPERATOR), a_key(KeyKind.ACCOUNT)
    head, body, signature = account_jwt(operator, account.public, name="a", at=AT).split(".")
    raw = base64.b32decode(operator.public + "=" * (-len(operator.public) % 8))[1:33]
    nacl.signing.VerifyKey(raw).verify(f"{head}.{body}".encode(), base64.urlsafe_b64decode(signature + "=="))


def test_a_user_without_permissions_of_its_own_has_none_in_its_jwt_so_that_the_scope_holds() -> None:
    signer, user = a_key(KeyKind.ACCOUNT), a_key(KeyKind.USER)
    jwt = user_jwt(
        signer, user.public, name="m", account="A1", at=AT, expires_at=AT + timedelta(seconds=9), tags=("epoch:1",)
    )
    claims = claims_of(jwt)
    assert claims["exp"] == int(AT.timestamp()) + 9
    assert claims["nats"] == {"type": "user", "version": 2, "issuer_account": "A1", "tags": ["epoch:1"]}


def test_nothing_allowed_is_never_read_as_everything() -> None:
    claims = Permissions().claims()
    assert claims == {"pub": {"allow": ["_NOTHING"]}, "sub": {"allow": ["_NOTHING"]}}


def test_a_creds_file_holds_the_jwt_and_the_seed() -> None:
    user = a_key(KeyKind.USER)
    text = creds_text("J.W.T", user)
    assert "\nJ.W.T\n" in text
    assert f"\n{user.seed}\n" in text


def test_a_key_is_made_once_and_stays_whoever_asks(tmp_path: Path) -> None:
    directory = tmp_path / "keys"
    found: list[str] = []
    threads = [
        threading.Thread(target=lambda: found.append(KeyStore(directory).project("webshop").seed)) for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(found)) == 1
    assert len(found) == 8
    assert KeyStore(directory).project("webshop").seed == found[0]
    assert KeyStore(directory).machines("webshop").seed != found[0]


def test_only_its_owner_can_read_a_key(tmp_path: Path) -> None:
    directory = tmp_path / "keys"
    before = os.umask(0)
    try:
        KeyStore(directory).operator()
    finally:
        os.umask(before)
    assert directory.stat().st_mode & 0o777 == 0o700
    assert [path.stat().st_mode & 0o777 for path in directory.iterdir()] == [0o600]
    assert [path.name for path in directory.iterdir()] == ["operator.nk"]


def test_keys_that_others_can_read_are_not_used(tmp_path: Path) -> None:
    directory = tmp_path / "keys"
    KeyStore(directory).operator()
    (directory / "operator.nk").chmod(0o644)
    with pytest.raises(UnsafeKeys, match="chmod 600"):
        KeyStore(directory).operator()
    directory.chmod(0o755)
    with pytest.raises(UnsafeKeys, match="chmod 700"):
        KeyStore(directory)


def test_a_broken_key_is_not_replaced_silently(tmp_path: Path) -> None:
    KeyStore(tmp_path / "keys").operator()
    write_secret(tmp_path / "keys" / "operator.nk", "")
    with pytest.raises(UnsafeKeys, match="backup"):
        KeyStore(tmp_path / "keys").operator()


def test_preparing_again_changes_no_credential_and_never_outdates_what_the_server_was_given(tmp_path: Path) -> None:
    def once(at: datetime) -> tuple[str, dict[str, str]]:
        prepared = prepare(KeyStore(tmp_path / "keys"), tmp_path / "creds", resolver=tmp_path / "accounts", at=at)
        return prepared.operator_creds.read_text(), dict(prepared.preload)

    creds, preload = once(AT)
    creds_again, preload_again = once(AT + timedelta(days=1))
    assert creds == creds_again
    operators = KeyStore(tmp_path / "keys").operators().public
    assert preload[operators] == preload_again[operators]
    assert claims_of(preload[operators])["iat"] == int(LONG_AGO.timestamp())


def test_the_servers_fragment_holds_no_secret(tmp_path: Path) -> None:
    keys = KeyStore(tmp_path / "keys")
    prepared = prepare(keys, tmp_path / "creds", resolver=tmp_path / "accounts", at=AT)
    seeds = [key.seed for key in (keys.operator(), keys.system(), keys.hub(), keys.operators())]
    assert not [seed for seed in seeds if seed in prepared.fragment]
    assert all(account in prepared.fragment for account in prepared.preload)
    assert "http" not in prepared.fragment


def test_a_project_imports_its_own_part_of_the_hub_and_nothing_else() -> None:
    jwt = accounts.project_jwt(
        a_key(KeyKind.OPERATOR), "A1", slug="webshop", hub="AHUB", machines="AM", at=AT, revocations={"U1": 5}
    )
    nats = cast("dict[str, object]", claims_of(jwt)["nats"])
    imports = cast("list[dict[str, object]]", nats["imports"])
    subjects = {(entry["type"], entry["subject"], entry.get("local_subject")) for entry in imports}
    assert subjects == {
        *(("service", f"{prefix}.webshop.>", None) for prefix in ("in", "ask", "from", "out", "beat")),
        ("service", "_INBOX_hub.>", None),
        ("service", "$SRV.>", None),
        ("stream", "log.webshop.>", "av.webshop.>"),
        *(("stream", f"{prefix}.webshop.>", None) for prefix in ("live", "cmd", "rejected")),
    }
    assert {entry["account"] for entry in imports} == {"AHUB"}
    assert [entry["subject"] for entry in imports if entry.get("share")] == ["ask.webshop.>"]
    assert "exports" not in nats
    assert nats["revocations"] == {"U1": 5}


def test_a_viewer_cannot_say_what_an_operator_can() -> None:
    viewer, operator = (accounts.client_permissions("webshop", role) for role in (Role.VIEWER, Role.OPERATOR))
    assert viewer.subscribe == operator.subscribe
    assert set(operator.publish) - set(viewer.publish) == {"in.webshop.>", "ask.webshop.>"}
