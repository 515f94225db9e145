"""The shell: the goal is a bash script."""

import re
import signal
from uuid import UUID

from agent.runners.port import Ending, Heard, Program, Start
from events.agent import AgentProgressed, AgentSpec

_PROGRESS = re.compile(r"::progress(?:[ =](?P<percent>\d{1,3})%?)?(?:::|[ :]+)(?P<message>\S.*)")


class ShellRunner:
    """Runs the goal by `bash` in the workspace; a line `::progress 40% half of the tests` is shown as progress."""

    own_stream = False
    converses = False

    def program(self, spec: AgentSpec, start: Start) -> Program:
        del start
        return Program(script=spec.goal, env=spec.env)

    def transcripts(self, spec: AgentSpec, session_id: UUID) -> tuple[str, ...]:
        del spec, session_id
        return ()

    def reader(self, spec: AgentSpec) -> "PlainReader":
        del spec
        return PlainReader()


class PlainReader:
    """Reads lines that are for people as they are; the exit code says how it ended."""

    def read(self, line: str) -> Heard:
        return Heard(progress=progress_in(line))

    def read_error(self, line: str) -> None:
        pass

    def judge(self, exit_code: int) -> Ending:
        if exit_code == 0:
            return Ending("succeeded")
        return Ending("failed", f"ended by {signal_name(-exit_code)}" if exit_code < 0 else "")


class SetupReader(PlainReader):
    """Reads the project's setup script; a failure says that it was not the goal that failed."""

    def judge(self, exit_code: int) -> Ending:
        if exit_code == 0:
            return Ending("succeeded")
        how = f"was ended by {signal_name(-exit_code)}" if exit_code < 0 else f"ended with {exit_code}"
        return Ending("failed", f"the project's setup script {how}; its output says why")


def signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def progress_in(line: str) -> AgentProgressed | None:
    found = _PROGRESS.fullmatch(line)
    if found is None:
        return None
    percent = int(found["percent"]) if found["percent"] else None
    if percent is not None and percent > 100:
        return None
    return AgentProgressed(message=found["message"][:4096], percent=percent)
