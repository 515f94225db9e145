"""Saying what is to be done by the tools that a request offers: each agent has its own names for the same things."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from services.rehearsal.script import Doing, Script

Input = Mapping[str, object]


@dataclass(frozen=True, slots=True)
class Tool:
    """A call of a tool that the client offers."""

    name: str
    input: Input


def call(doing: Doing, offered: Collection[str], workspace: str) -> Tool | None:
    """Return the call; None where the client has no tool for it."""
    for name, made in _ways(doing, workspace):
        if name in offered:
            return Tool(name, made)
    return None


def without_tools(script: Script, answered: str) -> str:
    """Return what is answered to a client without tools (aider), by what it was answered before.

    A turn that looks at files and names them in its words comes as these words: the client then shows the files. After
    that comes each file as it should be, in a block of its own.
    """
    for turn in script.turns:
        looked_at = [doing.read for doing in turn.do if doing.read is not None]
        if looked_at and all(path in turn.say for path in looked_at) and turn.say not in answered:
            return turn.say
    files = (f"{path}\n```\n{content.rstrip()}\n```\n" for path, content in script.writes.items())
    return f"{script.account}\n\n" + "\n".join(files)


def _ways(doing: Doing, workspace: str) -> tuple[tuple[str, Input], ...]:
    def at(path: str) -> str:
        return f"{workspace}/{path}"

    if doing.write is not None:
        whole: Input = {"file_path": at(doing.write), "content": doing.content}
        return ("Write", whole), ("write_file", whole), ("write", whole)
    if doing.edit is not None:
        change: Input = {"file_path": at(doing.edit), "old_string": doing.old, "new_string": doing.new}
        return ("Edit", change), ("edit", change)
    if doing.read is not None:
        look: Input = {"file_path": at(doing.read)}
        return ("Read", look), ("read_file", {"absolute_path": at(doing.read), **look}), ("read", look)
    assert doing.run is not None, "a script's doing has exactly one verb"
    command = doing.run
    return (
        ("Bash", {"command": command, "description": "As the script says"}),
        ("run_shell_command", {"command": command, "is_background": False}),
        ("bash", {"command": command}),
    )
