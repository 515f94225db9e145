"""Who holds which user key in which account, and which of them are revoked: the issuer's own fold of the log."""

from collections import defaultdict
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from events.address import Address
from events.base import Event
from events.credential import CredentialIssued, CredentialRevoked
from events.ids import HUB

REVOCATIONS_MAX = 6_000
"""Per account: its JWT must stay below the server's 1 MiB payload, and 6,000 revocations are 0.6 MiB of it."""
FOREVER_S = 253_402_300_799
"""The end of the year 9999, for keys that never expire."""


@dataclass(frozen=True, slots=True)
class UserKey:
    """A key of a NATS user and when the JWT it was made for ends; None: never."""

    public: str
    expires_at: datetime | None


class Register:
    """Live user keys by credential and revoked ones by account (`_hub`: the operators'); expired ones are forgotten.

    A user key is used for one JWT only, so it is revoked until that JWT ends: no clock can be wrong about it.
    """

    def __init__(self) -> None:
        self._keys: defaultdict[UUID, set[UserKey]] = defaultdict(set)
        self._account: dict[UUID, str] = {}
        self._address: dict[UUID, Address] = {}
        self._revoked: defaultdict[str, dict[str, int]] = defaultdict(dict)

    def apply(self, address: Address, event: Event) -> str | None:
        """Take an event in, again if need be. Returns the account whose revocations it changed."""
        credential_id = UUID(address.id)
        match event:
            case CredentialIssued(public_key=str(public), expires_at=expires_at) as issued:
                self._keys[credential_id].add(UserKey(public, expires_at))
                self._account[credential_id] = HUB if issued.kind == "operator" else issued.projects[0]
                self._address[credential_id] = address
                return None
            case CredentialIssued():
                self._address[credential_id] = address
                return None
            case CredentialRevoked():
                return self._revoke(credential_id)
            case _:
                return None

    def _revoke(self, credential_id: UUID) -> str | None:
        self._address.pop(credential_id, None)
        account = self._account.pop(credential_id, None)
        if account is not None:
            for key in self._keys.pop(credential_id, ()):
                self._revoked[account][key.public] = _second(key.expires_at)
        return account

    def address_of(self, credential_id: UUID) -> Address | None:
        """Where a live credential's events are; None: it is not live."""
        return self._address.get(credential_id)

    def revocations(self, account: str, now: datetime) -> tuple[dict[str, int], int]:
        """Return what is still worth revoking, and how many had to be left out (those that end soonest)."""
        live = {public: until for public, until in self._revoked[account].items() if until >= int(now.timestamp())}
        self._revoked[account] = live
        latest = sorted(live.items(), key=lambda entry: entry[1], reverse=True)
        return dict(latest[:REVOCATIONS_MAX]), max(0, len(latest) - REVOCATIONS_MAX)

    def forget_expired(self, now: datetime) -> None:
        for credential_id in [
            credential_id
            for credential_id, keys in self._keys.items()
            if all(key.expires_at is not None and key.expires_at < now for key in keys)
        ]:
            del self._keys[credential_id]
            self._account.pop(credential_id, None)
            self._address.pop(credential_id, None)

    def __len__(self) -> int:
        return len(self._keys)


def _second(at: datetime | None) -> int:
    return FOREVER_S if at is None else int(at.timestamp())
