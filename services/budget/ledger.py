"""Load a machine and the accounts above it, decide, and append it all as one batch."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from uuid import UUID

from domain.budget import Account, Command, Decision, Machine, Situation, decide, machine, opened
from events import address
from events.address import Address
from events.budget import SharesRebalanced
from events.envelope import Cause
from events.ids import HUB
from services.budget.purses import Purse, evolve
from services.kit.log import Log, Write
from services.kit.repository import Repository, decide_and_append


@dataclass(frozen=True, slots=True)
class Answer:
    """What was decided and appended."""

    before: Machine
    calls_open: bool
    """Whether model calls of the machine are not resolved yet."""
    decision: Decision
    seq: int | None
    """Of the last event of the batch; None: there was nothing to say."""


class Ledger:
    """The accounts as the log has them. Any number of these may work at once: the log refuses a stale decision."""

    def __init__(self, log: Log, now: Callable[[], datetime]) -> None:
        self._log = log
        self._now = now
        self._machines = Repository[Machine](log, Machine, machine.evolve)
        self._accounts = Repository[Purse](log, Purse, evolve)

    async def carry_out(self, where: Address, command: Callable[[datetime], Command], cause: Cause) -> Answer:
        """Decide over a machine and its accounts until the decision fits the log; `command` is made anew each time.

        Raises:
            Transient, Refused: As `decide_and_append`.
        """
        last = Answer(Machine(), calls_open=False, decision=Decision(), seq=None)

        async def decided() -> Sequence[Write]:
            nonlocal last
            situation, seqs = await self._situation(where)
            decision = decide(command(self._now()), situation)
            last = Answer(situation.machine, bool(situation.calls.open), decision, None)
            accounts = (
                Write(address.budget(situation.owner(node), node), seqs[node], said)
                for node, said in decision.accounts.items()
            )
            return [Write(where, seqs[""], decision.machine), *accounts]

        appended = await decide_and_append(self._log, decided, cause=cause)
        return replace(last, seq=appended.seq if appended else None)

    async def bring_up(self, where: Address, cause: Cause) -> None:
        """Answer what an account was asked, and open its periods that have begun."""

        async def decided() -> Sequence[Write]:
            loaded = await self._accounts.get(where)
            return [Write(where, loaded.seq, opened(loaded.state.account, where.project, where.id, self._now()))]

        await decide_and_append(self._log, decided, cause=cause)

    async def rebalance(
        self, decided_by: Callable[[Account, datetime], tuple[SharesRebalanced, ...]], cause: Cause
    ) -> None:
        """Say on the hub's account how what is scarce is shared, if that is not what was said last."""
        where = address.budget(HUB, HUB)

        async def decided() -> Sequence[Write]:
            hub = await self._accounts.get(where)
            return [Write(where, hub.seq, decided_by(hub.state.account, self._now()))]

        await decide_and_append(self._log, decided, cause=cause)

    async def _situation(self, where: Address) -> tuple[Situation, dict[str, int]]:
        """Load what a decision needs. Returns it with the seq of each node's account, and of the machine under `""`."""
        empty = Situation(where.project, UUID(where.id), Machine())
        found, accounts = await asyncio.gather(
            self._machines.get(where),
            asyncio.gather(*(self._accounts.get(address.budget(empty.owner(node), node)) for node in empty.path)),
        )
        loaded = dict(zip(empty.path, accounts, strict=True))
        situation = Situation(
            empty.slug,
            empty.machine_id,
            found.state,
            {node: state.state.account for node, state in loaded.items()},
            loaded[empty.node].state.calls,
        )
        return situation, {"": found.seq, **{node: state.seq for node, state in loaded.items()}}
