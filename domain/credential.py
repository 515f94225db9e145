"""Credentials: issued once (a machine's epoch: again and again, to renew), revoked for ever."""

from dataclasses import dataclass, replace
from typing import assert_never
from uuid import UUID

from events.base import Event
from events.credential import CredentialIssued, CredentialKind, CredentialRevoked
from events.ids import derived
from events.records import Problem


@dataclass(frozen=True, slots=True)
class Credential:
    """A credential as its events tell it; `Credential()` is one nobody has asked for."""

    kind: CredentialKind | None = None
    name: str = ""
    revoked: bool = False


@dataclass(frozen=True, slots=True)
class Issue:
    """Let somebody speak."""

    credential: CredentialIssued


@dataclass(frozen=True, slots=True)
class Revoke:
    """Make it worth nothing."""

    reason: str = ""


Command = Issue | Revoke


def evolve(state: Credential, event: Event) -> Credential:
    match event:
        case CredentialIssued(kind=kind, name=name):
            return replace(state, kind=kind, name=name)
        case CredentialRevoked():
            return replace(state, revoked=True)
        case _:
            return state


def decide(command: Command, state: Credential) -> list[Event] | Problem:
    match command:
        case Issue(credential) if state.kind is None or (credential.kind == state.kind == "machine"):
            return _revoked(state) if state.revoked else [credential]
        case Issue():
            return Problem(
                code="conflict",
                message=f"this id is already the {state.kind} credential {state.name!r}; its secret is shown only once",
                remedy="ask with a new id, and revoke the old one",
            )
        case Revoke(reason) if state.kind is not None:
            return [] if state.revoked else [CredentialRevoked(reason=reason)]
        case Revoke():
            return Problem(code="no_such_credential", message="there is no such credential", remedy="list credentials")
        case _:
            assert_never(command)


def machine_credential_id(project: str, machine_id: UUID, epoch: int) -> UUID:
    """The one credential of an incarnation, whoever asks for it and how often."""
    return derived("credential", project, str(machine_id), str(epoch))


def _revoked(state: Credential) -> Problem:
    return Problem(code="conflict", message=f"the {state.kind} credential {state.name!r} was revoked for good")
