"""Decisions made durable: a machine's own beside all others, and those that write to accounts which machines share together.

Of many appends at once to one account the log takes one and refuses the rest. So whoever extends or draws waits for its
turn, and whoever's turn it is decides for all who wait by then, one after the other, and appends all of it at once.
"""

import asyncio
import random
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from events.address import Address
from events.base import Event
from events.ledger import Reserve, Void
from services.budget.drafting import Drafter
from services.budget.mailbox import Asked, Draft
from services.budget.purses import Purse, Purses
from services.kit.errors import Conflict, Transient
from services.kit.log import Log, Write
from services.kit.repository import CONFLICTS_MAX, Loaded

COMMANDS_MAX = 128
"""So many are decided in one turn; each says a few things, and the log takes 1,000 in one append."""


@dataclass(slots=True, eq=False)
class _Turn:
    """A mailbox that waits to write to the accounts above."""

    where: Address
    asked: list[Asked]
    draft: Draft | None = None
    error: Exception | None = None

    @property
    def is_over(self) -> bool:
        return self.draft is not None or self.error is not None


class Commits:
    """Decides on the path as it is known, appends, and does it again when an account has moved on meanwhile."""

    def __init__(self, log: Log, purses: Purses, drafter: Drafter) -> None:
        self._log = log
        self._purses = purses
        self._drafter = drafter
        self._turns: deque[_Turn] = deque()
        self._turn = asyncio.Lock()

    async def commit(self, where: Address, asked: list[Asked]) -> Draft:
        """Return what was decided once it is durable.

        Raises:
            Transient, LogFull: It is not known to be stored.
        """
        draft = await self._beside_others(where, asked)
        return await self._with_others(where, asked) if draft is None else draft

    async def _beside_others(self, where: Address, asked: list[Asked]) -> Draft | None:
        """Return what was decided; None: it would write to accounts that others share."""
        fresh = False
        for round_number in range(CONFLICTS_MAX):
            path = await self._purses.path(where, epoch=_epoch(asked), fresh=fresh)
            draft = await self._drafter.draft(path, asked)
            if not draft.is_certain and not fresh:
                fresh = True
            elif draft.is_above:
                return None
            elif await self._append([draft], asked):
                return draft
            else:
                fresh = True
                await _pause(round_number)
        raise Transient(f"{where}: still in conflict after {CONFLICTS_MAX} rounds")

    async def _with_others(self, where: Address, asked: list[Asked]) -> Draft:
        turn = _Turn(where, asked)
        self._turns.append(turn)
        try:
            async with self._turn:
                if not turn.is_over:
                    await self._take(turn)
        finally:
            if turn in self._turns:
                self._turns.remove(turn)
        if turn.error is not None:
            raise turn.error
        assert turn.draft is not None, "a turn ends with a draft or an error"
        return turn.draft

    async def _take(self, first: _Turn) -> None:
        """Bring this turn to its end, and with it as many of those who wait as go together."""
        if first in self._turns:  # unless whoever took it was cancelled
            self._turns.remove(first)
        taken, commands = [first], len(first.asked)
        while self._turns and self._turns[0].asked[0].cause == first.asked[0].cause:
            commands += len(self._turns[0].asked)
            if commands > COMMANDS_MAX:
                break
            taken.append(self._turns.popleft())
        try:
            await self._decide_all(taken)
        except Transient as error:  # the log takes nothing now, also not of those who come after
            for turn in (*taken, *self._turns):
                turn.error = error
            self._turns.clear()
        except Exception as error:  # noqa: BLE001 # each of them says it to those who asked
            for turn in taken:
                turn.error = error

    async def _decide_all(self, turns: list[_Turn]) -> None:
        fresh = False
        for round_number in range(CONFLICTS_MAX):
            drafts = await self._drafts(turns, fresh=fresh)
            if not fresh and not all(draft.is_certain for _, draft in drafts):
                fresh = True
            elif await self._append([draft for _, draft in drafts], turns[0].asked):
                for turn, draft in drafts:
                    turn.draft = draft
                return
            else:
                fresh = True
                await _pause(round_number)
        raise Transient(f"{len(turns)} machines: still in conflict after {CONFLICTS_MAX} rounds")

    async def _drafts(self, turns: list[_Turn], *, fresh: bool) -> list[tuple[_Turn, Draft]]:
        """Decide for one after the other, each on what the ones before it leave; whoever fails drops out alone."""
        paths = await asyncio.gather(
            *(self._purses.path(turn.where, epoch=_epoch(turn.asked), fresh=fresh) for turn in turns)
        )
        drafts: list[tuple[_Turn, Draft]] = []
        known: dict[Address, Loaded[Purse]] = {}
        for turn, path in zip(turns, paths, strict=True):
            turn.error = None
            try:
                draft = await self._drafter.draft(path.over(known), turn.asked)
            except Exception as error:  # noqa: BLE001 # the edge: one machine must not fail those beside it
                turn.error = error
                continue
            known |= draft.path.accounts
            drafts.append((turn, draft))
        return drafts

    async def _append(self, drafts: Sequence[Draft], asked: Sequence[Asked]) -> bool:
        """Make it durable; False: somebody has moved on one of the accounts meanwhile."""
        writes = _writes(drafts)
        if not writes:
            return True
        try:
            appended = await self._log.append(*writes, cause=asked[0].cause)
        except Conflict:
            return False
        self._purses.took([draft.path for draft in drafts], writes, appended)
        return True


def _writes(drafts: Sequence[Draft]) -> list[Write]:
    """Return one write per aggregate that something happens to; an account above before those under it."""
    merged: dict[Address, tuple[int, list[Event]]] = {}
    for draft in drafts:
        path = draft.path
        if draft.machine:
            merged[path.where] = path.machine_seq, list(draft.machine)
        for node, (each, loaded) in zip(path.purses, path.accounts.items(), strict=True):
            if events := draft.accounts.get(node):
                merged.setdefault(each, (loaded.seq, []))[1].extend(events)
    return [Write(each, seq, tuple(events)) for each, (seq, events) in merged.items()]


def _epoch(asked: Sequence[Asked]) -> int | None:
    return max((each.command.epoch for each in asked if isinstance(each.command, Reserve | Void)), default=None)


async def _pause(round_number: int) -> None:
    await asyncio.sleep(random.uniform(0, 0.002 * 2 ** min(round_number, 7)))  # noqa: S311 # jitter
