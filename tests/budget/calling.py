"""A machine that makes model calls, as the gateway asks for them: real service, real log."""

import asyncio
import json
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from decimal import Decimal
from uuid import UUID

from events import address, fresh
from events.budget import BudgetRequested
from events.call import Tokens
from events.ids import HUB
from events.ledger import AskPrice, Granted, NotGranted, Reserve, Settle, Settled, Void
from events.machine import Limits, MachineParked, MachineProvisioningStarted, MachineRequested
from events.words import Hold, HoldMode, MachineType, Resource, Unit
from services.budget.settings import BudgetSettings
from services.kit.ledger import LedgerClient, LedgerUnreachable
from tests.budget.conftest import Client
from tests.budget.world import SHOP
from tests.harness.services import service_process

MODEL = "rehearsal-sonnet"


def settings(**changes: object) -> BudgetSettings:
    """Compute costs nothing, prices are ours, no package is loaded."""
    return BudgetSettings.model_validate(
        {
            "vcpu_hour_cad": Decimal(0),
            "gib_hour_cad": Decimal(0),
            "prices_own": PRICE_LIST,
            "prices_packaged": False,
            "slice_cad": Decimal(0),
            "draw_s": 0.2,
            **changes,
        }
    )


PRICE_LIST = [  # a millionth CAD for each token of any class: what is held can be counted in the head
    {
        "model": "rehearsal-*",
        "provider": "rehearsal",
        "input": "1",
        "output": "1",
        "cache_read": "1",
        "cache_write_5m": "1",
        "cache_write_1h": "1",
        "currency": "CAD",
    }
]


def budget_process(
    nats_url: str, ledger: LedgerClient, **settings: str
) -> AbstractAsyncContextManager[asyncio.subprocess.Process]:
    """The budget with these settings in a process of its own."""

    async def answers() -> bool:
        try:
            return (await ledger.price(AskPrice(model=MODEL))).rates is not None
        except LedgerUnreachable:
            return False

    said = {
        "vcpu_hour_cad": "0",
        "gib_hour_cad": "0",
        "prices_own": json.dumps(PRICE_LIST),
        "prices_packaged": "false",
        "slice_cad": "0",
    }
    return service_process("budget", nats_url, answers, **{**said, **settings})


def ai_request(money: str | None = "1", greediness: str | None = None) -> MachineRequested:
    return MachineRequested(
        goal="Add tests",
        machine_type=MachineType.CLAUDE_API,
        model=MODEL,
        budget=None if money is None else Decimal(money),
        greediness=None if greediness is None else Decimal(greediness),
        limits=Limits(deadline_s=60),
    )


@dataclass
class Caller:
    """One machine of the shop, and the gateway's view of it."""

    client: Client
    ledger: LedgerClient
    machine_id: UUID
    epoch: int = 1

    @classmethod
    async def start(cls, client: Client, money: str | None = "1", greediness: str | None = None) -> "Caller":
        """Request a machine and have it provisioned once it is admitted."""
        from events.machine import MachineAdmitted  # noqa: PLC0415

        who = await client.ask(ai_request(money, greediness))
        await client.hears(MachineAdmitted, who)
        caller = cls(client, LedgerClient(client.bus.wire, timeout_s=20), who)
        await caller.provision(1)
        return caller

    async def provision(self, epoch: int) -> None:
        self.epoch = epoch
        await self.client.say(
            address.machine(SHOP, self.machine_id),
            MachineProvisioningStarted(
                epoch=epoch,
                hypervisor="local",
                node="here",
                from_checkpoint_id=fresh.uuid7(),
                snapshot="0" * 64,
                on_trunk=True,
            ),
        )

    async def park(self) -> None:
        await self.client.say(address.machine(SHOP, self.machine_id), MachineParked(epoch=self.epoch, hold=Hold.BUDGET))

    def ask(self, tokens: int, *, wait_s: float = 0.0, mode: HoldMode = HoldMode.STRICT, epoch: int = 0) -> Reserve:
        """A call that may take so many tokens: half in, half out."""
        return Reserve(
            call_id=fresh.uuid7(),
            project=SHOP,
            machine_id=self.machine_id,
            epoch=epoch or self.epoch,
            provider="rehearsal",
            model=MODEL,
            input_tokens_max=tokens // 2,
            output_tokens_max=tokens - tokens // 2,
            mode=mode,
            wait_s=wait_s,
        )

    async def reserve(
        self, tokens: int, *, wait_s: float = 0.0, mode: HoldMode = HoldMode.STRICT, epoch: int = 0
    ) -> Granted | NotGranted:
        return await self.ledger.reserve(self.ask(tokens, wait_s=wait_s, mode=mode, epoch=epoch))

    async def granted(self, tokens: int) -> Granted:
        answer = await self.reserve(tokens)
        assert isinstance(answer, Granted), answer
        return answer

    def usage(self, call_id: UUID, tokens: int) -> Settle:
        now = fresh.now()
        return Settle(
            call_id=call_id,
            project=SHOP,
            machine_id=self.machine_id,
            epoch=self.epoch,
            tokens=Tokens(input=tokens // 2, output=tokens - tokens // 2),
            began_at=now,
            ended_at=now,
        )

    async def settle(self, call_id: UUID, tokens: int) -> Settled:
        return await self.ledger.settle(self.usage(call_id, tokens))

    async def void(self, call_id: UUID, reason: str = "the provider answered 529") -> None:
        await self.ledger.void(
            Void(call_id=call_id, project=SHOP, machine_id=self.machine_id, epoch=self.epoch, reason=reason)
        )

    async def free(self, node: str) -> Decimal:
        """What is allocated, less used, less reserved, of the account's money."""
        account = await self.client.account(node, HUB if node == HUB else SHOP)
        book = next(book for (resource, _), book in account.books.items() if resource is Resource.MONEY)
        return (book.allocated or Decimal(0)) - book.used - book.reserved


def money(amount: str) -> BudgetRequested:
    return BudgetRequested(resource=Resource.MONEY, amount=Decimal(amount), unit=Unit.CAD)
