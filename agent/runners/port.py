"""The port to what pursues a goal. A runner says what to run and what its output means; it starts nothing itself."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

from events.agent import AgentProgressed, AgentSpec


@dataclass(frozen=True, slots=True)
class Program:
    """What to run inside the sandbox, in the workspace."""

    argv: tuple[str, ...] = ()
    script: str | None = None
    """Bash, instead of `argv`; of any length, and seen by no process list."""
    env: Mapping[str, str] = field(default_factory=dict[str, str])
    """Beside PATH, HOME and LANG; reaches the program by a descriptor, so it is in no process list either."""


class Runner(Protocol):
    """Stateless: one instance serves every incarnation."""

    def program(self, spec: AgentSpec) -> Program: ...

    def progress(self, line: str) -> AgentProgressed | None:
        """What a line of standard output says of the progress, if anything."""
        ...
