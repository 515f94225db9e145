"""The conversation on disk: one message a line, appended whole and flushed before anything else is done with it.

What was said is never said again and what a tool answered is never asked again: whoever reads the file goes on from
its last line. A line that was torn by the end of the machine is cut off.
"""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import NotRequired, TypedDict, cast

UNKNOWN = "[interrupted: it is not known whether this had its effect; look before you repeat it]"


class Message(TypedDict):
    """As the Messages API takes it, but for `stop_reason`."""

    role: str
    content: str | list[dict[str, object]]
    stop_reason: NotRequired[str]


class History:
    """The messages so far, and the file that holds them."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._messages: list[Message] = []
        path.parent.mkdir(parents=True, exist_ok=True)
        self._messages, whole_bytes = _read(path)
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        os.ftruncate(self._file, whole_bytes)

    def add(self, message: Message) -> None:
        """Append a message; it is on disk when this returns."""
        line = json.dumps(message, ensure_ascii=False, separators=(",", ":")).encode(errors="replace") + b"\n"
        while line:
            line = line[os.write(self._file, line) :]
        os.fdatasync(self._file)
        self._messages.append(message)

    @classmethod
    def forked(cls, path: Path, other: Path, prompt: str) -> "History":
        """Begin with what another conversation holds, and a new goal; the file is there whole or not at all."""
        torn = path.with_suffix(".new")
        torn.unlink(missing_ok=True)
        history = cls(torn)
        messages, _ = _read(other)
        for message in messages:
            history.add(message)
        history.settle()
        history.add({"role": "user", "content": prompt})
        torn.rename(path)
        return history

    def settle(self) -> None:
        """Answer the tool calls that nobody will answer any more, so that the conversation can go on."""
        if not self._messages or self._messages[-1]["role"] != "assistant":
            return
        open_calls = [block for block in _blocks(self._messages[-1]) if block.get("type") == "tool_use"]
        if open_calls:
            results: list[dict[str, object]] = [
                {"type": "tool_result", "tool_use_id": block["id"], "content": UNKNOWN, "is_error": True}
                for block in open_calls
            ]
            self.add({"role": "user", "content": results})

    @property
    def ended(self) -> str:
        """Why the last turn, which was the model's, was its last; empty: it is not."""
        last = self._messages[-1] if self._messages else None
        reason = last.get("stop_reason", "") if last is not None and last["role"] == "assistant" else ""
        return "" if reason in {"tool_use", "pause_turn"} else reason

    @property
    def last_text(self) -> str:
        last = self._messages[-1] if self._messages else None
        return "" if last is None else "\n".join(str(block.get("text", "")) for block in _blocks(last)).strip()

    def messages(self) -> list[Message]:
        """Return what is sent to the model."""
        return [{"role": each["role"], "content": each["content"]} for each in self._messages]

    def close(self) -> None:
        os.close(self._file)


def _blocks(message: Message) -> Sequence[dict[str, object]]:
    content = message["content"]
    return [{"type": "text", "text": content}] if isinstance(content, str) else content


def _read(path: Path) -> tuple[list[Message], int]:
    """The whole lines of a file, and how many bytes they are."""
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return [], 0
    messages: list[Message] = []
    whole_bytes = 0
    for line in data.split(b"\n")[:-1]:
        try:
            message = json.loads(line)
        except ValueError:
            break
        if not isinstance(message, dict) or not {"role", "content"} <= cast("dict[str, object]", message).keys():
            break
        messages.append(cast("Message", message))
        whole_bytes += len(line) + 1
    return messages, whole_bytes
