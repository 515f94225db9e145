"""NATS JWTs (version 2) and creds files, made with nkeys alone. Pure: keys, claims and times are arguments.

Source: the claims of github.com/nats-io/jwt v2; algorithm `ed25519-nkey`;
`jti` is the base32 SHA-256 of the claims without it.
"""

import base64
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import Enum
from typing import Protocol, cast

import nkeys  # pyright: ignore[reportMissingTypeStubs] - it has none; `_Nkeys` says what is used

Claims = Mapping[str, object]

UNLIMITED = -1
_HEADER = b'{"typ":"JWT","alg":"ed25519-nkey"}'


class KeyKind(Enum):
    """What a key is for; the value is the prefix byte of its public text (O…, A…, U…)."""

    OPERATOR = nkeys.PREFIX_BYTE_OPERATOR
    ACCOUNT = nkeys.PREFIX_BYTE_ACCOUNT
    USER = nkeys.PREFIX_BYTE_USER


class _Pair(Protocol):
    """What is used of `nkeys.KeyPair`."""

    @property
    def public_key(self) -> bytes: ...

    def sign(self, input: bytes) -> bytes: ...  # noqa: A002 - the library's name


class _Nkeys(Protocol):
    """What is used of `nkeys`, which has no types of its own."""

    def encode_seed(self, src: bytes, prefix: int) -> bytes: ...

    def from_seed(self, seed: bytearray) -> _Pair: ...


_nkeys = cast("_Nkeys", nkeys)


@dataclass(frozen=True, slots=True)
class Key:
    """A signing key. Its seed is a secret: it never shows in a repr."""

    seed: str = field(repr=False)
    public: str

    @classmethod
    def of(cls, kind: KeyKind, entropy: bytes) -> "Key":
        """Make a key of 32 random bytes."""
        return cls.read(_nkeys.encode_seed(entropy, kind.value).decode())

    @classmethod
    def read(cls, seed: str) -> "Key":
        """Raises:
        ValueError: Not the text of a seed.
        """
        try:
            pair = _pair(seed)
        except nkeys.NkeysError as error:
            raise ValueError("not the text of an nkey seed") from error
        return cls(seed, pair.public_key.decode())

    def sign(self, text: bytes) -> bytes:
        return _pair(self.seed).sign(text)


def _pair(seed: str) -> _Pair:
    return _nkeys.from_seed(bytearray(seed.encode()))


@dataclass(frozen=True, slots=True)
class Permissions:
    """What a user may publish and subscribe to; empty means nothing, never everything."""

    publish: tuple[str, ...] = ()
    subscribe: tuple[str, ...] = ()
    publish_deny: tuple[str, ...] = ()
    responses: int = 0
    """How many replies to each message it hears it may publish, wherever that message asks for them."""
    responses_within_s: int = 0

    def claims(self) -> dict[str, object]:
        # The server reads an empty allow list as "everything": a subject nobody uses stands for nothing.
        nothing = ("_NOTHING",)
        publish: dict[str, object] = {"allow": list(self.publish or nothing)}
        if self.publish_deny:
            publish["deny"] = list(self.publish_deny)
        claims: dict[str, object] = {"pub": publish, "sub": {"allow": list(self.subscribe or nothing)}}
        if self.responses:
            claims["resp"] = {"max": self.responses, "ttl": self.responses_within_s * 1_000_000_000}
        return claims


@dataclass(frozen=True, slots=True)
class Scope:
    """A signing key that can only make users of this template; the server fills in `{{name()}}` and `{{tag(x)}}`."""

    public: str
    role: str
    permissions: Permissions
    subscriptions_max: int
    payload_max_bytes: int

    def claims(self) -> dict[str, object]:
        template = self.permissions.claims() | {
            "subs": self.subscriptions_max,
            "data": UNLIMITED,
            "payload": self.payload_max_bytes,
            "allowed_connection_types": ["STANDARD"],
        }
        return {"kind": "user_scope", "key": self.public, "role": self.role, "template": template}


def operator_jwt(operator: Key, *, name: str, system_account: str, at: datetime) -> str:
    nats: dict[str, object] = {"type": "operator", "version": 2, "system_account": system_account}
    return _encode({"name": name, "sub": operator.public, "nats": nats}, operator, at)


def account_jwt(
    operator: Key,
    account: str,
    *,
    name: str,
    at: datetime,
    jetstream: bool = False,
    connections_max: int = UNLIMITED,
    exports: Sequence[Claims] = (),
    imports: Sequence[Claims] = (),
    scopes: Sequence[Scope] = (),
    revocations: Mapping[str, int] | None = None,
) -> str:
    """Say what an account is; `revocations`: user key -> unix second until which what was issued to it is worthless."""
    limits = dict.fromkeys(("subs", "leaf", "imports", "exports", "data", "payload"), UNLIMITED) | {
        "conn": connections_max,
        "wildcards": True,
    }
    if jetstream:
        names = ("mem_storage", "disk_storage", "streams", "consumer", "max_ack_pending")
        limits |= dict.fromkeys((*names, "mem_max_stream_bytes", "disk_max_stream_bytes"), UNLIMITED)
    nats: dict[str, object] = {"type": "account", "version": 2, "limits": limits}
    if exports:
        nats["exports"] = [dict(export) for export in exports]
    if imports:
        nats["imports"] = [dict(entry) for entry in imports]
    if scopes:
        nats["signing_keys"] = [scope.claims() for scope in scopes]
    if revocations:
        nats["revocations"] = dict(sorted(revocations.items()))
    return _encode({"name": name, "sub": account, "nats": nats}, operator, at)


def user_jwt(
    signer: Key,
    user: str,
    *,
    name: str,
    account: str,
    at: datetime,
    expires_at: datetime | None = None,
    permissions: Permissions | None = None,
    tags: Sequence[str] = (),
) -> str:
    """Let `user` (a public key) speak in `account`; without `permissions` those of the signer's scope hold."""
    nats: dict[str, object] = {"type": "user", "version": 2}
    if account != signer.public:
        nats["issuer_account"] = account
    if permissions is not None:
        nats |= permissions.claims() | {"subs": UNLIMITED, "data": UNLIMITED, "payload": UNLIMITED}
    if tags:
        nats["tags"] = list(tags)
    claims: dict[str, object] = {"name": name, "sub": user, "nats": nats}
    if expires_at is not None:
        claims["exp"] = int(expires_at.timestamp())
    return _encode(claims, signer, at)


def creds_text(jwt: str, user: Key) -> str:
    """The text of a creds file, as every NATS client reads it."""
    return (
        f"-----BEGIN NATS USER JWT-----\n{jwt}\n------END NATS USER JWT------\n\n"
        "************************* IMPORTANT *************************\n"
        "This file lets its holder speak. Keep it secret.\n\n"
        f"-----BEGIN USER NKEY SEED-----\n{user.seed}\n------END USER NKEY SEED------\n"
    )


def claims_of(jwt: str) -> dict[str, object]:
    """Read the claims back; the signature is not checked."""
    body = jwt.split(".")[1]
    return cast("dict[str, object]", json.loads(base64.urlsafe_b64decode(body + "=" * (-len(body) % 4))))


def _encode(claims: Mapping[str, object], signer: Key, at: datetime) -> str:
    full = dict(claims) | {"iat": int(at.timestamp()), "iss": signer.public, "jti": ""}
    digest = hashlib.sha256(_json(full)).digest()
    full["jti"] = base64.b32encode(digest).rstrip(b"=").decode()
    signed = f"{_base64(_HEADER)}.{_base64(_json(full))}"
    return f"{signed}.{_base64(signer.sign(signed.encode()))}"


def _json(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()


def _base64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()
