"""Hand accounts to the running server; pushes of one account that come together become one."""

import asyncio
import json
from collections import defaultdict
from collections.abc import Callable
from typing import cast

import nats.errors
from nats.aio.client import Client

CLAIMS_UPDATE = "$SYS.REQ.CLAIMS.UPDATE"
PUSH_TIMEOUT_S = 5.0


class PushFailed(Exception):
    """The server did not take an account: it is away, or says no. Pushing again is safe."""


class _Turn:
    """Whose changes the last accepted push already carried."""

    __slots__ = ("carried", "lock", "wanted")

    def __init__(self) -> None:
        self.lock = asyncio.Lock()
        self.wanted = 0
        self.carried = 0


class Pusher:
    """One push per account at a time; who waits for it shares the next one. What failed stays in `owed`."""

    def __init__(self, system: Client, jwt_of: Callable[[str], str], *, timeout_s: float = PUSH_TIMEOUT_S) -> None:
        self._system = system
        self._jwt_of = jwt_of
        self._timeout_s = timeout_s
        self._turns: defaultdict[str, _Turn] = defaultdict(_Turn)
        self.owed: set[str] = set()
        self.known: set[str] = set()
        """Accounts that the server has taken from us."""

    async def push(self, account: str) -> None:
        """Return when the server has taken the account as it is now, or later.

        Raises:
            PushFailed: Ask again; it also stays in `owed`.
        """
        turn = self._turns[account]
        turn.wanted += 1
        mine = turn.wanted
        self.owed.add(account)
        async with turn.lock:
            if turn.carried >= mine:
                return
            carrying = turn.wanted
            await self._send(account)
            turn.carried = carrying
            self.known.add(account)
            if turn.wanted == carrying:
                self.owed.discard(account)

    async def ensure(self, account: str) -> None:
        """Push an account that the server does not have from us yet; raises as `push`."""
        if account not in self.known:
            await self.push(account)

    async def _send(self, account: str) -> None:
        try:
            reply = await self._system.request(CLAIMS_UPDATE, self._jwt_of(account).encode(), timeout=self._timeout_s)
        except (nats.errors.Error, TimeoutError) as error:
            raise PushFailed(f"account {account}: no answer within {self._timeout_s} s: {error!r}") from error
        answer = cast("dict[str, dict[str, object]]", json.loads(reply.data))
        if answer.get("data", {}).get("code") != 200:
            raise PushFailed(f"account {account}: the server says {answer.get('error', answer.get('data'))}")
