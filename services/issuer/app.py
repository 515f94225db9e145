"""The issuer hears that projects are created and makes their accounts; asked, it says CredentialIssued and Revoked."""

import asyncio
from contextlib import AsyncExitStack, suppress
from types import TracebackType
from typing import Self

import structlog
from nats import micro
from nats.aio.client import Client
from nats.micro.service import Service as MicroService

from events import fresh
from events.envelope import Recorded
from events.ids import HUB
from services.issuer import accounts
from services.issuer.desk import Desk
from services.issuer.keys import KeyStore
from services.issuer.push import Pusher, PushFailed
from services.issuer.questions import Questions
from services.issuer.register import REVOCATIONS_MAX, Register
from services.issuer.settings import IssuerSettings
from services.kit.bus import Bus
from services.kit.delivery import Later
from services.kit.health import Health, Part
from services.kit.metrics import Metrics
from services.kit.reactor import Reactors

SERVICE = "autovibe-issuer"
VERSION = "0.1.0"
CREATED = "av.*.project.*.ProjectCreated"
CREDENTIALS = ("av.*.credential.*.CredentialIssued", "av.*.credential.*.CredentialRevoked")
PUSHES_AT_ONCE = 8

_log: structlog.stdlib.BoundLogger = structlog.get_logger("issuer")

__all__ = ["Issuer", "IssuerSettings", "create_app"]


def create_app(bus: Bus, system: Client, settings: IssuerSettings) -> "Issuer":
    """Args:
    system: A connection in the system account, through which accounts are pushed.
    """
    return Issuer(bus, system, settings)


class Issuer:
    """Accounts on the server follow the log, inside its `async with` block."""

    name = "issuer"

    def __init__(self, bus: Bus, system: Client, settings: IssuerSettings) -> None:
        self.metrics = Metrics(self.name)
        self._bus = bus
        self._settings = settings
        self._keys = KeyStore(settings.issuer_keys)
        self._register = Register()
        self._pusher = Pusher(system, self._account_jwt)
        self._desk = Desk(bus.log, self._keys, self._register, self._pusher, settings)
        self._position = 0
        self._exits = AsyncExitStack()
        self._reactors = Reactors(bus, self.name, self.metrics)
        self._reactors.on(stream="LOG", durable=self.name, subjects=[CREATED])(self._on_project_created)

    async def __aenter__(self) -> Self:
        await self._catch_up()
        async with AsyncExitStack() as exits:
            tasks = await exits.enter_async_context(asyncio.TaskGroup())
            for loop in (self._follow(), self._settle()):
                exits.push_async_callback(_ended, tasks.create_task(loop))
            await exits.enter_async_context(self._reactors.running())
            questions = Questions(self._desk, self._keys.operators().public, tasks)
            await exits.enter_async_context(await self._endpoints(questions))
            self._exits = exits.pop_all()
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        await self._exits.__aexit__(exc_type, exc, tb)

    async def health(self) -> Health:
        owed = len(self._pusher.owed)
        detail = f"{len(self._register)} credentials, {owed} accounts to be pushed, seq {self._position}"
        return await self._reactors.health() + Health((Part("accounts", ok=not owed, detail=detail),))

    async def _on_project_created(self, created: Recorded) -> None:
        try:
            await self._pusher.push(created.envelope.address.project)
        except PushFailed as error:
            raise Later(self._settings.push_retry_s, str(error)) from error

    async def _catch_up(self) -> None:
        """Read who may speak, and owe the server every account: it may have lost what it was given."""
        async for batch in self._bus.log.follow(0, CREDENTIALS, stop_at_end=True):
            self._take(batch)
        self._register.forget_expired(fresh.now())
        async for created in self._bus.log.follow(0, (CREATED,), stop_at_end=True):
            self._pusher.owed.update(recorded.envelope.address.project for recorded in created)
        self._pusher.owed.add(HUB)

    async def _follow(self) -> None:
        """Hear what other instances say; what this one says it knows already."""
        async for batch in self._bus.log.follow(self._position, CREDENTIALS):
            self._pusher.owed.update(account for account in self._take(batch) if account)

    def _take(self, batch: list[Recorded]) -> list[str | None]:
        self._position = batch[-1].seq
        return [self._register.apply(recorded.envelope.address, recorded.event) for recorded in batch]

    async def _settle(self) -> None:
        """Push what is owed, until it is taken; what cannot be pushed holds up nobody else and is tried again later."""
        while True:
            owed = sorted(self._pusher.owed)
            failures: list[Exception] = []
            for at in range(0, len(owed), PUSHES_AT_ONCE):
                pushes = map(self._pusher.push, owed[at : at + PUSHES_AT_ONCE])
                results = await asyncio.gather(*pushes, return_exceptions=True)
                failures += [result for result in results if isinstance(result, Exception)]
            if failures:
                _log.warning("accounts.not_taken", accounts=len(failures), reason=_worst(failures))
            if failures or not owed:
                self._register.forget_expired(fresh.now())
                await asyncio.sleep(self._settings.push_retry_s)

    def _account_jwt(self, account: str) -> str:
        now = fresh.now()
        operator, hub = self._keys.operator(), self._keys.hub().public
        revocations, left_out = self._register.revocations(account, now)
        if left_out:
            _log.error("revocations.left_out", account=account, left_out=left_out, limit=REVOCATIONS_MAX)
        if account == HUB:
            own = self._keys.operators().public
            return accounts.operator_account_jwt(operator, own, hub=hub, at=now, revocations=revocations)
        return accounts.project_jwt(
            operator,
            self._keys.project(account).public,
            slug=account,
            hub=hub,
            machines=self._keys.machines(account).public,
            at=now,
            revocations=revocations,
        )

    async def _endpoints(self, questions: Questions) -> MicroService:
        service = await micro.add_service(
            self._bus.nc, name=SERVICE, version=VERSION, description="credentials: issued, revoked"
        )
        asked = "ask._hub.credential.*"
        for name, subject, handler in (
            ("machine", "issuer.machine", questions.machine),
            ("revoke", "issuer.revoke", questions.revoke),
            ("CredentialRequested", f"{asked}.CredentialRequested", questions.credential_requested),
            ("CredentialRevokeRequested", f"{asked}.CredentialRevokeRequested", questions.credential_revoke_requested),
        ):
            await service.add_endpoint(name=name, subject=subject, handler=handler, queue_group=self.name)
        return service


async def _ended(task: asyncio.Task[None]) -> None:
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task


def _worst(failures: list[Exception]) -> str:
    """Return what went wrong; an error of ours, like a damaged key, before a server that is away."""
    return repr(min(failures, key=lambda failure: isinstance(failure, PushFailed)))
