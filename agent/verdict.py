"""Why a runner is to stop before it is done; the first reason stands."""

import asyncio
from dataclasses import dataclass
from typing import Literal

StopOutcome = Literal["cancelled", "expired", "failed", "parked"]


@dataclass(frozen=True, slots=True)
class Reason:
    """How it counts and how it is done."""

    outcome: StopOutcome
    text: str
    grace_s: float
    seal: bool = True
    """Whether a final checkpoint is taken."""


class Verdict:
    def __init__(self) -> None:
        self.reason: Reason | None = None
        self._given = asyncio.Event()

    def give(self, reason: Reason) -> None:
        if self.reason is None:
            self.reason = reason
            self._given.set()

    async def wait(self) -> Reason:
        await self._given.wait()
        assert self.reason is not None
        return self.reason
