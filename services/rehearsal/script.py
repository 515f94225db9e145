"""Scripts: what the rehearsal model says and which tools it calls, turn by turn.

A script is a TOML file. Its first turn is played when `match` is found in what the user asks for; the turns after it
follow from the conversation itself: the ids of tool calls name the turn they belong to. So the server remembers
nothing, and a conversation that was parked and restored goes on where it was.
"""

import re
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

CALL_ID = re.compile(r"(?:toolu|call)_reh_(?P<script>[a-z0-9]+)_(?P<turn>\d{1,4})_\d{1,3}$")


class BadScript(Exception):
    """A script file cannot be read; the message names the file and what is wrong."""


class Doing(BaseModel):
    """One thing that is done in the workspace; exactly one of the verbs."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    write: str | None = None
    """The path of a file that is written, relative to the workspace."""
    content: str = ""
    edit: str | None = None
    """The path of a file in which `old` becomes `new`."""
    old: str = ""
    new: str = ""
    run: str | None = None
    """A shell command."""
    read: str | None = None
    """The path of a file that is looked at."""

    @model_validator(mode="after")
    def _one_verb(self) -> Self:
        verbs = [verb for verb in ("write", "edit", "run", "read") if getattr(self, verb) is not None]
        if len(verbs) != 1:
            raise ValueError(f"needs exactly one of write, edit, run and read, has {', '.join(verbs) or 'none'}")
        return self


class Turn(BaseModel):
    """One answer of the model."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    say: str = ""
    do: tuple[Doing, ...] = ()


class Script(BaseModel):
    """A whole conversation; it ends with the first turn in which nothing is done."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: Annotated[str, Field(pattern=r"^[a-z0-9]{1,32}$")]
    match: str
    """A regular expression, searched in what the user says, whatever the case."""
    turns: Annotated[tuple[Turn, ...], Field(min_length=1, max_length=1_000)]

    @property
    def writes(self) -> Mapping[str, str]:
        """Every file that is written, for those who are answered with whole files."""
        return {doing.write: doing.content for turn in self.turns for doing in turn.do if doing.write is not None}

    @property
    def account(self) -> str:
        return self.turns[-1].say


UNKNOWN = Script(
    name="unknown",
    match="",
    turns=(
        Turn(
            say="This is a rehearsal model and no script of it fits this goal; I look around and leave a note.",
            do=(Doing(run="ls -la"),),
        ),
        Turn(
            say="I write down that this was a rehearsal.",
            do=(
                Doing(
                    write="REHEARSAL.md",
                    content="A rehearsal model was here: it plays scripts and understands nothing.\n",
                ),
            ),
        ),
        Turn(say="Done. Set ANTHROPIC_API_KEY to have a real model work on the goal."),
    ),
)


@dataclass(frozen=True, slots=True)
class Part:
    """What is answered to one request: the turn, and where in its script it stands."""

    script: Script
    number: int

    @property
    def turn(self) -> Turn:
        return self.script.turns[min(self.number, len(self.script.turns) - 1)]

    def call_id(self, index: int, prefix: str) -> str:
        return f"{prefix}_reh_{self.script.name}_{self.number}_{index}"


def read(paths: Iterable[Path]) -> tuple[Script, ...]:
    """Read scripts from files, and from the `*.toml` of directories, in the order of their names.

    Raises:
        BadScript: One cannot be read.
    """
    found: list[Script] = []
    for path in paths:
        for file in sorted(path.glob("*.toml")) if path.is_dir() else (path,):
            try:
                script = Script.model_validate(tomllib.loads(file.read_text("utf-8")))
                re.compile(script.match)
            except (OSError, ValueError, ValidationError, re.error) as error:
                raise BadScript(f"rehearsal script {file}: {error}") from error
            found.append(script)
    return tuple(found)


def part(scripts: Sequence[Script], asked: str, call_ids: Iterable[str]) -> Part:
    """Return what comes next: by the tool calls that the conversation has answers of, else by what is asked."""
    known = {script.name: script for script in (*scripts, UNKNOWN)}
    last: Part | None = None
    for call_id in call_ids:
        match = CALL_ID.fullmatch(call_id)
        if match and match["script"] in known:
            here = Part(known[match["script"]], int(match["turn"]) + 1)
            last = here if last is None or last.script != here.script or here.number >= last.number else last
    if last is not None:
        return last
    fitting = (script for script in scripts if re.search(script.match, asked, re.IGNORECASE))
    return Part(next(fitting, UNKNOWN), 0)
