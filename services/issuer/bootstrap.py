"""From the key store to a server that can start: the operator, the first accounts and the first credentials."""

import json
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from events.words import Role
from services.issuer import accounts
from services.issuer.jwt import Key, KeyKind, Permissions, creds_text, operator_jwt, user_jwt
from services.issuer.keys import ENTROPY_BYTES, KeyStore, write_secret

LONG_AGO = datetime(2020, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Prepared:
    """What a server that asks for credentials is started with; only the creds files are secret."""

    operator_jwt: str
    system_account: str
    preload: Mapping[str, str]
    """Account id to JWT, for the accounts that must be there from the first moment."""
    resolver: Path
    """Where the server keeps the accounts it was given; it survives the server."""
    hub_creds: Path
    """For the services, in HUB."""
    system_creds: Path
    """For the issuer, which pushes accounts, and for health checks that ask the server itself."""
    operator_creds: Path
    """For the human who runs the hub."""

    @property
    def fragment(self) -> str:
        """The part of nats-server's configuration file that says all this."""
        lines = "\n".join(f"  {account}: {jwt}" for account, jwt in self.preload.items())
        return (
            f"operator: {self.operator_jwt}\n"
            f"system_account: {self.system_account}\n"
            f"resolver: {{ type: full, dir: {json.dumps(str(self.resolver))}, allow_delete: true }}\n"
            f"resolver_preload: {{\n{lines}\n}}\n"
        )


def prepare(keys: KeyStore, directory: Path, *, resolver: Path, at: datetime) -> Prepared:
    """Make what is missing (keys, creds files in `directory`, 0700) and say how the server is to be started.

    Call it before every start of the server; no key and no creds file that is there already changes.
    """
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    resolver.mkdir(mode=0o700, parents=True, exist_ok=True)
    users = (
        ("hub", keys.hub(), accounts.service_permissions()),
        ("system", keys.system(), accounts.system_permissions()),
        ("operator", keys.operators(), accounts.operator_permissions(Role.ADMIN)),
    )
    hub_creds, system_creds, operator_creds = (
        _first_user(directory, name, account, permissions, at) for name, account, permissions in users
    )
    operator, system = keys.operator(), keys.system().public
    return Prepared(
        operator_jwt=operator_jwt(operator, name="autovibe", system_account=system, at=at),
        system_account=system,
        preload=_preload(keys, at),
        resolver=resolver,
        hub_creds=hub_creds,
        system_creds=system_creds,
        operator_creds=operator_creds,
    )


def _preload(keys: KeyStore, at: datetime) -> dict[str, str]:
    operator, system, hub, operators = keys.operator(), keys.system(), keys.hub(), keys.operators()
    return {
        system.public: accounts.system_jwt(operator, system.public, at=at),
        hub.public: accounts.hub_jwt(operator, hub.public, at=at),
        # A preload that is newer than what the server was given replaces it, and only that holds the revocations.
        operators.public: accounts.operator_account_jwt(operator, operators.public, hub=hub.public, at=LONG_AGO),
    }


def _first_user(directory: Path, name: str, account: Key, permissions: Permissions, at: datetime) -> Path:
    """A user that exists before there is a log to record it in; made once, kept after."""
    path = directory / f"{name}.creds"
    if not path.exists():
        user = Key.of(KeyKind.USER, secrets.token_bytes(ENTROPY_BYTES))
        jwt = user_jwt(account, user.public, name=name, account=account.public, at=at, permissions=permissions)
        write_secret(path, creds_text(jwt, user))
    return path
