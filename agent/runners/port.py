"""The port to what pursues a goal. A runner says what to run and what its output means; it starts nothing itself.

A runner of an AI agent has a conversation that outlives the process: `Start` says whether it begins, goes on or is
forked from another machine's. Its output is a stream of its own (`own_stream`): kept as it is, and read line by line
into what people read.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, Protocol
from uuid import UUID

from events.agent import AgentProgressed, AgentSpec

GATEWAY_PORT = 8080
GATEWAY = f"http://127.0.0.1:{GATEWAY_PORT}"
"""Where a runner finds the gateway, in the sandbox's own network; nothing else is there."""
STREAM_LINE_BYTES_MAX = 8 * 1024 * 1024
"""Of an agent's own stream; a longer line is not read, only kept."""

GO_ON = (
    "You were interrupted and go on now, in the same workspace. A tool that was running then may have had its effect "
    "or not: look before you repeat it. The goal is still:\n\n"
)
FORKED = "The conversation so far was another machine's, in this workspace. Your own goal is:\n\n"


class CannotRun(Exception):
    """This machine can never be run here; the message says what is missing and what helps."""


@dataclass(frozen=True, slots=True)
class Program:
    """What to run inside the sandbox, in the workspace."""

    argv: tuple[str, ...] = ()
    script: str | None = None
    """Bash, instead of `argv`; of any length, and seen by no process list."""
    env: Mapping[str, str] = field(default_factory=dict[str, str])
    """Beside PATH, HOME and LANG; reaches the program by a descriptor, so it is in no process list either."""
    stdin: str = ""
    """All that its standard input holds."""
    files: Mapping[str, str] = field(default_factory=dict[str, str])
    """Settings to write before it starts: content by path below home. They are captured with it, so no secrets."""


@dataclass(frozen=True, slots=True)
class Start:
    """How a conversation starts in this incarnation."""

    session_id: UUID
    """The conversation's own id: the same in every epoch of a machine."""
    mode: Literal["fresh", "resume", "fork"] = "fresh"
    """resume: this machine has talked before. fork: it goes on from a copy of `forked_from`."""
    forked_from: UUID | None = None

    def prompt(self, goal: str) -> str:
        """Return what the agent is told first: the goal, or that it goes on with it."""
        match self.mode:
            case "fresh":
                return goal
            case "resume":
                return GO_ON + goal
            case "fork":
                return FORKED + goal


@dataclass(frozen=True, slots=True)
class Heard:
    """What one line of output says."""

    lines: tuple[str, ...] = ()
    """For people; may hold line breaks. Unused without `own_stream`: there the line itself is for people."""
    progress: AgentProgressed | None = None


@dataclass(frozen=True, slots=True)
class Ending:
    """How the program ended, by all that was heard."""

    outcome: Literal["succeeded", "failed"]
    reason: str = ""


class Reader(Protocol):
    """Reads one run of the program; remembers what it needs to judge the end."""

    def read(self, line: str) -> Heard:
        """Take a line of standard output, without its end; anything at all may be in it."""
        ...

    def read_error(self, line: str) -> None:
        """Take a line of standard error; it is shown as it is."""
        ...

    def judge(self, exit_code: int) -> Ending:
        """Say how it ended; -N where signal N ended it."""
        ...


class Runner(Protocol):
    """Stateless: one instance serves every incarnation."""

    own_stream: bool
    """Whether standard output is a stream for programs: kept raw, and read for people by `Reader.read`."""
    converses: bool
    """Whether there is a conversation to go on with; then the machine's home holds which one it is."""

    def program(self, spec: AgentSpec, start: Start) -> Program:
        """Build what to run.

        Raises:
            CannotRun: Something it needs is not there; says what helps.
        """
        ...

    def transcripts(self, spec: AgentSpec, session_id: UUID) -> tuple[str, ...]:
        """Return where this conversation is written, `home/…` or `workspace/…`; the first that exists is it."""
        ...

    def reader(self, spec: AgentSpec) -> Reader: ...
