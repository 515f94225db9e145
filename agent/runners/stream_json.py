"""Reads the stream of a coding agent that speaks `stream-json` (Claude Code, Qwen Code) into what people read.

One JSON object a line. What is not understood is shown as it is, so that a new version of an agent loses nothing.
The end is judged by the `result` line and never by the exit code: an agent that the provider refused, or that was
interrupted, leaves with 0 too.
"""

import json
from collections.abc import Iterator, Mapping
from typing import TypeAlias, cast

from agent.runners.port import Ending, Heard
from agent.runners.shell import signal_name
from events.agent import AgentProgressed

Json: TypeAlias = Mapping[str, object]

WRITES = frozenset(
    {"Write", "Edit", "MultiEdit", "NotebookEdit", "write_file", "write", "edit", "replace", "notebook_edit"}
)
"""Tools that change the file they name."""
_TELLS = ("command", "file_path", "notebook_path", "absolute_path", "path", "pattern", "url", "query", "description")
"""Inputs that say what a call is about, the best first."""
ABOUT_CHARS_MAX = 200
REASON_CHARS_MAX = 2_000
OPEN_MAX = 1_000
"""Calls whose results are waited for; an agent that never answers them is not remembered for ever."""


class StreamJsonReader:
    """Reads one run; `name` is what the agent is called when there is something to say about it."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._result: Json | None = None
        self._open: dict[str, tuple[str, str]] = {}
        self._last_error = ""

    def read(self, line: str) -> Heard:
        said = _object(line)
        if said is None:
            return Heard((line,)) if line.strip() else Heard()
        match said.get("type"):
            case "system":
                return Heard(tuple(self._system(said)))
            case "assistant":
                return self._assistant(said)
            case "user":
                return Heard(tuple(self._results(said)))
            case "result":
                self._result = said
                return Heard(tuple(self._end(said)))
            case _:
                return Heard()

    def read_error(self, line: str) -> None:
        if line.strip():
            self._last_error = line.strip()[:REASON_CHARS_MAX]

    def judge(self, exit_code: int) -> Ending:
        result = self._result
        if result is None:
            how = f"was ended by {signal_name(-exit_code)}" if exit_code < 0 else f"ended with {exit_code}"
            why = f": {self._last_error}" if self._last_error else ""
            return Ending("failed", f"{self._name} {how} and said no result{why}")
        complete = result.get("terminal_reason", "completed") == "completed" and result.get("subtype") == "success"
        if complete and result.get("is_error") is False:
            return Ending("succeeded")
        return Ending("failed", f"{self._name}: {_reason(result)}"[:REASON_CHARS_MAX])

    def _system(self, said: Json) -> Iterator[str]:
        match said.get("subtype"):
            case "init":
                version = _text(said.get("claude_code_version") or said.get("qwen_code_version"))
                yield " ".join(each for each in (self._name, version, "with", _text(said.get("model"))) if each)
            case "api_retry":
                status, attempt = _text(said.get("error_status")) or "no answer", _text(said.get("attempt"))
                yield f"model: {status}, tries again ({attempt} of {_text(said.get('max_retries'))})"
            case _:
                return

    def _assistant(self, said: Json) -> Heard:
        lines: list[str] = []
        progress: AgentProgressed | None = None
        for block in _blocks(said):
            match block.get("type"):
                case "text":
                    lines.append(_text(block.get("text")))
                case "tool_use":
                    name, given = _text(block.get("name")), _mapping(block.get("input"))
                    told = f"tool: {name} {about(given)}".rstrip()
                    lines.append(told)
                    progress = AgentProgressed(message=told)
                    self._remember(_text(block.get("id")), name, _path(given))
                case _:
                    pass
        return Heard(tuple(line for line in lines if line), progress)

    def _remember(self, use_id: str, name: str, path: str) -> None:
        if len(self._open) < OPEN_MAX:
            self._open[use_id] = name, path

    def _results(self, said: Json) -> Iterator[str]:
        for block in _blocks(said):
            if block.get("type") != "tool_result":
                continue
            name, path = self._open.pop(_text(block.get("tool_use_id")), ("", ""))
            if block.get("is_error") is True:
                yield f"  failed: {_first_line(_content(block.get('content')))}"
            elif name in WRITES and path:
                yield f"  changed: {path}"

    def _end(self, result: Json) -> Iterator[str]:
        denied = result.get("permission_denials")
        if isinstance(denied, list) and denied:
            yield f"{len(cast('list[object]', denied))} tool calls were denied"


def about(given: Json) -> str:
    """Say in one short line what a tool is called with."""
    for name in _TELLS:
        if isinstance(value := given.get(name), str) and value:
            return _first_line(value)
    return _first_line(json.dumps(given, ensure_ascii=False)) if given else ""


def _path(given: Json) -> str:
    return next((_text(given[name]) for name in ("file_path", "notebook_path", "path") if given.get(name)), "")


def _reason(result: Json) -> str:
    """The agent's own words on why it ended."""
    errors, error = result.get("errors"), _mapping(result.get("error"))
    words = _text(result.get("result")) or _text(error.get("message"))
    if not words and isinstance(errors, list):
        words = "; ".join(_text(each) for each in cast("list[object]", errors))
    how = _text(result.get("terminal_reason")) or _text(result.get("subtype")) or "it says that it failed"
    return f"{words} ({how})" if words else how


def _blocks(said: Json) -> Iterator[Json]:
    content = _mapping(said.get("message")).get("content")
    if isinstance(content, str):
        yield {"type": "text", "text": content}
    elif isinstance(content, list):
        yield from (_mapping(each) for each in cast("list[object]", content))


def _content(content: object) -> str:
    if isinstance(content, list):
        return "\n".join(_text(_mapping(each).get("text")) for each in cast("list[object]", content))
    return _text(content)


def _first_line(text: str) -> str:
    line = next((each.strip() for each in text.splitlines() if each.strip()), "")
    more = len(line) > ABOUT_CHARS_MAX or line != text.strip()
    return f"{line[:ABOUT_CHARS_MAX]}…" if more else line


def _object(line: str) -> Json | None:
    try:
        found: object = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return cast("Json", found) if isinstance(found, dict) else None


def _mapping(value: object) -> Json:
    return cast("Json", value) if isinstance(value, dict) else {}


def _text(value: object) -> str:
    """A text as it is, a number as digits; anything else is no text."""
    if isinstance(value, str):
        return value
    return str(value) if isinstance(value, int | float) and not isinstance(value, bool) else ""
