"""From the key store to a server that can start: its configuration fragment and the first credentials.

Whoever starts nats-server calls `prepare` before it does; calling it again changes no key, only renews the texts.
"""

import json
import secrets
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from events.words import Role
from services.issuer import accounts
from services.issuer.jwt import Key, KeyKind, Permissions, creds_text, operator_jwt, user_jwt
from services.issuer.keys import ENTROPY_BYTES, KeyStore, write_secret

RESOLVER_ACCOUNTS_MAX = 100_000


@dataclass(frozen=True, slots=True)
class Prepared:
    """What was written. `fragment` is to be included in nats-server's configuration; it holds no secret."""

    fragment: str
    hub_creds: Path
    """For the services, in HUB."""
    system_creds: Path
    """For the issuer, which pushes accounts, and for health checks that ask the server itself."""
    operator_creds: Path
    """For the human who runs the hub."""


def prepare(keys: KeyStore, directory: Path, *, resolver: Path, at: datetime) -> Prepared:
    """Write the creds files into `directory` (0700) and return the server's fragment.

    Args:
        resolver: Where the server keeps the accounts it was given; it survives the server.
    """
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    resolver.mkdir(mode=0o700, parents=True, exist_ok=True)
    users = (
        ("hub", keys.hub(), accounts.service_permissions()),
        ("system", keys.system(), accounts.system_permissions()),
        ("operator", keys.operators(), accounts.operator_permissions(Role.ADMIN)),
    )
    paths = [_first_user(directory, name, account, permissions, at) for name, account, permissions in users]
    return Prepared(fragment(keys, resolver=resolver, at=at), *paths)


def fragment(keys: KeyStore, *, resolver: Path, at: datetime) -> str:
    """The part of nats-server's configuration that makes it ask for credentials and take accounts while it runs."""
    operator, system, hub, operators = keys.operator(), keys.system(), keys.hub(), keys.operators()
    preload = {
        system.public: accounts.system_jwt(operator, system.public, at=at),
        hub.public: accounts.hub_jwt(operator, hub.public, at=at),
        operators.public: accounts.operator_account_jwt(operator, operators.public, hub=hub.public, at=at),
    }
    lines = "\n".join(f"  {account}: {jwt}" for account, jwt in preload.items())
    return (
        f"operator: {operator_jwt(operator, name='autovibe', system_account=system.public, at=at)}\n"
        f"system_account: {system.public}\n"
        f"resolver: {{ type: full, dir: {json.dumps(str(resolver))}, allow_delete: true, "
        f"limit: {RESOLVER_ACCOUNTS_MAX} }}\n"
        f"resolver_preload: {{\n{lines}\n}}\n"
    )


def _first_user(directory: Path, name: str, account: Key, permissions: Permissions, at: datetime) -> Path:
    """A user that exists before there is a log to record it in; made once, kept after."""
    path = directory / f"{name}.creds"
    if not path.exists():
        user = Key.of(KeyKind.USER, secrets.token_bytes(ENTROPY_BYTES))
        jwt = user_jwt(account, user.public, name=name, account=account.public, at=at, permissions=permissions)
        write_secret(path, creds_text(jwt, user))
    return path
