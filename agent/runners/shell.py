"""The shell: the goal is a bash script."""

import re

from agent.runners.port import Program
from events.agent import AgentProgressed, AgentSpec

_PROGRESS = re.compile(r"::progress(?:[ =](?P<percent>\d{1,3})%?)?(?:::|[ :]+)(?P<message>\S.*)")


class ShellRunner:
    """Runs the goal by `bash` in the workspace; a line `::progress 40% half of the tests` is shown as progress."""

    def program(self, spec: AgentSpec) -> Program:
        return Program(script=spec.goal, env=spec.env)

    def progress(self, line: str) -> AgentProgressed | None:
        found = _PROGRESS.fullmatch(line)
        if found is None:
            return None
        percent = int(found["percent"]) if found["percent"] else None
        if percent is not None and percent > 100:
            return None
        return AgentProgressed(message=found["message"][:4096], percent=percent)
