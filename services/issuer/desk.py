"""Issuing and revoking: who may have what, the event, the secret, and the account that makes it true on the server."""

import hashlib
import secrets
from datetime import datetime, timedelta
from typing import Literal
from uuid import UUID

from domain import credential as credentials
from domain import project
from domain.credential import Credential, Issue, Revoke, machine_credential_id
from domain.project import Project
from events import address, fresh
from events.address import Address, parse
from events.credential import CredentialIssued
from events.envelope import Cause
from events.ids import HUB
from events.records import Problem
from events.words import Role
from services.issuer import accounts
from services.issuer.jwt import Key, KeyKind, Permissions, creds_text, user_jwt
from services.issuer.keys import ENTROPY_BYTES, KeyStore
from services.issuer.push import Pusher
from services.issuer.register import Register
from services.issuer.settings import IssuerSettings
from services.issuer.wire import CredentialRequested, Issued, MachineAsk
from services.kit.errors import Conflict, Transient
from services.kit.log import Log, Write
from services.kit.repository import Repository

API_KEY_BYTES = 32
"""256 bits: nothing to guess, so a plain SHA-256 of it can be told to everybody."""
API_KEY_PREFIX = "av_"
MACHINE_KEY_PREFIX = "avm_"
CONFLICTS_MAX = 10


class Desk:
    """What the issuer does when it is asked. Nothing is answered before it is in the log and true on the server."""

    def __init__(self, log: Log, keys: KeyStore, register: Register, pusher: Pusher, settings: IssuerSettings) -> None:
        self._log = log
        self._keys = keys
        self._register = register
        self._pusher = pusher
        self._settings = settings
        self._projects = Repository(log, Project, project.evolve)

    async def machine(self, ask: MachineAsk, cause: Cause) -> Issued | Problem:
        """Let an incarnation speak, on the bus and to the gateway; asked again it gets another key and token beside the first.

        Raises:
            Transient, PushFailed: Ask again.
        """
        slug, machine_id = ask.project, ask.machine_id
        if missing := await self._missing((slug,)):
            return missing
        credential_id = machine_credential_id(slug, machine_id, ask.epoch)
        user, expires_at = _user(), self._expiry(ask.ttl_s, self._settings.machine_ttl_s)
        if expires_at - fresh.now() > timedelta(seconds=self._settings.machine_ttl_max_s + 1):
            return _too_long(ask.ttl_s, self._settings.machine_ttl_max_s)
        gateway_token = MACHINE_KEY_PREFIX + secrets.token_urlsafe(API_KEY_BYTES)
        event = CredentialIssued(
            kind="machine",
            name=str(machine_id),
            role=Role.OPERATOR,
            projects=(slug,),
            public_key=user.public,
            key_sha256=hashlib.sha256(gateway_token.encode()).hexdigest(),
            machine_id=machine_id,
            epoch=ask.epoch,
            expires_at=expires_at,
        )
        if refused := await self._record(address.credential(slug, credential_id), Issue(event), cause):
            return refused
        await self._pusher.ensure(slug)
        jwt = user_jwt(
            self._keys.machines(slug),
            user.public,
            name=str(machine_id),
            account=self._keys.project(slug).public,
            at=fresh.now(),
            expires_at=expires_at,
            tags=(f"epoch:{ask.epoch}",),
        )
        creds = creds_text(jwt, user)
        return Issued(credential_id=credential_id, creds=creds, gateway_token=gateway_token, expires_at=expires_at)

    async def credential(self, credential_id: UUID, ask: CredentialRequested, cause: Cause) -> Issued | Problem:
        """Make a credential for a human or a program; its secret is answered once and never kept.

        Raises:
            Transient, PushFailed: Ask again, with a new id: the secret of this one may be lost.
        """
        if problem := _senseless(ask) or await self._missing(ask.projects):
            return problem
        expires_at = self._expiry(ask.ttl_s, self._settings.client_ttl_s)
        if ask.ttl_s is not None and ask.ttl_s > self._settings.client_ttl_max_s:
            return _too_long(ask.ttl_s, self._settings.client_ttl_max_s)
        if ask.kind == "api_key":
            return await self._api_key(credential_id, ask, expires_at, cause)
        user = _user()
        event = _issued(ask, ask.kind, expires_at).model_copy(update={"public_key": user.public})
        if refused := await self._record(address.credential(HUB, credential_id), Issue(event), cause):
            return refused
        signer, permissions = self._client(ask)
        await self._pusher.ensure(HUB if ask.kind == "operator" else ask.projects[0])
        jwt = user_jwt(
            signer,
            user.public,
            name=ask.name,
            account=signer.public,
            at=fresh.now(),
            expires_at=expires_at,
            permissions=permissions,
        )
        return Issued(credential_id=credential_id, creds=creds_text(jwt, user), expires_at=expires_at)

    async def revoke(self, of: Address, reason: str, cause: Cause) -> Problem | None:
        """Make a credential worthless and cut its connections; asked again, it is made sure again.

        Raises:
            Transient, PushFailed: Ask again; what is in the log is pushed again by itself.
        """
        if refused := await self._record(of, Revoke(reason), cause):
            return refused
        account = None
        for recorded in (await self._log.load(of)).events:
            account = self._register.apply(of, recorded.event) or account
        if account is not None:
            await self._pusher.push(account)
        return None

    async def address_of(self, credential_id: UUID) -> Address:
        """Where a credential's events are, also when it is revoked or expired, which the register forgets.

        Raises:
            Transient: Ask again.
        """
        if live := self._register.address_of(credential_id):
            return live
        said = await self._log.reader.last(f"av.*.credential.{credential_id}.>")
        return parse(said.subject)[0] if said else address.credential(HUB, credential_id)

    async def _api_key(
        self, credential_id: UUID, ask: CredentialRequested, expires_at: datetime, cause: Cause
    ) -> Issued | Problem:
        api_key = API_KEY_PREFIX + secrets.token_urlsafe(API_KEY_BYTES)
        digest = hashlib.sha256(api_key.encode()).hexdigest()
        event = _issued(ask, "api_key", expires_at).model_copy(update={"key_sha256": digest})
        if refused := await self._record(address.credential(HUB, credential_id), Issue(event), cause):
            return refused
        return Issued(credential_id=credential_id, api_key=api_key, expires_at=expires_at)

    def _client(self, ask: CredentialRequested) -> tuple[Key, Permissions]:
        if ask.kind == "operator":
            return self._keys.operators(), accounts.operator_permissions(ask.role)
        (slug,) = ask.projects
        return self._keys.project(slug), accounts.client_permissions(slug, ask.role)

    async def _record(self, of: Address, command: Issue | Revoke, cause: Cause) -> Problem | None:
        for _ in range(CONFLICTS_MAX):
            history = await self._log.load(of)
            state = Credential()
            for recorded in history.events:
                state = credentials.evolve(state, recorded.event)
            outcome = credentials.decide(command, state)
            if isinstance(outcome, Problem):
                return outcome
            if not outcome:
                return None
            try:
                await self._log.append(Write(of, history.seq, tuple(outcome)), cause=cause)
            except Conflict:
                continue
            return None
        raise Transient(f"{of} moved on {CONFLICTS_MAX} times")

    async def _missing(self, slugs: tuple[str, ...]) -> Problem | None:
        for slug in slugs:
            if not (await self._projects.get(address.project(slug))).state.exists:
                message = f"there is no project {slug}"
                return Problem(code="no_such_project", message=message, field="projects", value=slug)
        return None

    def _expiry(self, ttl_s: int | None, default_s: int) -> datetime:
        return (fresh.now() + timedelta(seconds=ttl_s or default_s)).replace(microsecond=0)


def _user() -> Key:
    return Key.of(KeyKind.USER, secrets.token_bytes(ENTROPY_BYTES))


def _issued(
    ask: CredentialRequested, kind: Literal["client", "api_key", "operator"], expires_at: datetime
) -> CredentialIssued:
    return CredentialIssued(kind=kind, name=ask.name, role=ask.role, projects=ask.projects, expires_at=expires_at)


def _senseless(ask: CredentialRequested) -> Problem | None:
    """Whether role, kind and projects fit each other; a credential for no project must never mean one for all."""
    count = len(ask.projects)
    if ask.kind == "client" and (count != 1 or ask.role is Role.ADMIN):
        message = "a client is viewer or operator of exactly one project; for more, make one for each"
    elif ask.kind == "operator" and count:
        message = "an operator is good for all projects: name none"
    elif ask.kind == "api_key" and (ask.role is Role.ADMIN) == bool(count):
        message = (
            "an API key of role admin is good for all projects and names none; of any other role it names at least one"
        )
    else:
        return None
    return Problem(
        code="bad_body", message=message, field="projects", value=f"{ask.kind}, {ask.role}, {count} projects"
    )


def _too_long(ttl_s: int | None, max_s: int) -> Problem:
    return Problem(
        code="bad_body", message="it would live too long", field="ttl_s", value=str(ttl_s), limit=f"{max_s} s"
    )
