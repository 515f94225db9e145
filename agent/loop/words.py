"""What the built-in agent says on standard output: JSON lines in the form of Claude Code's `stream-json`."""

import json
from collections.abc import Mapping, Sequence
from typing import TextIO


class Words:
    """Every line is flushed: it is read while the agent works."""

    def __init__(self, to: TextIO) -> None:
        self._to = to
        self._ended = False

    def begin(self, session_id: str, model: str, version: str) -> None:
        self._say(
            {"type": "system", "subtype": "init", "session_id": session_id, "model": model, "sdk_version": version}
        )

    def block(self, message_id: str, model: str, block: Mapping[str, object]) -> None:
        """A whole block of a reply, as soon as the model has said it."""
        message = {"id": message_id, "role": "assistant", "model": model, "content": [block]}
        self._say({"type": "assistant", "message": message})

    def usage(self, message_id: str, stop_reason: str, usage: Mapping[str, object]) -> None:
        self._say(
            {"type": "system", "subtype": "turn", "message_id": message_id, "stop_reason": stop_reason, "usage": usage}
        )

    def results(self, results: Sequence[Mapping[str, object]]) -> None:
        self._say({"type": "user", "message": {"role": "user", "content": results}})

    def end(self, how: str, text: str, *, is_error: bool, turns: int = 0) -> None:
        """Say the end, once."""
        if self._ended:
            return
        self._ended = True
        self._say(
            {
                "type": "result",
                "subtype": "error_during_execution" if is_error else "success",
                "is_error": is_error,
                "terminal_reason": how,
                "result": text,
                "num_turns": turns,
            }
        )

    def _say(self, line: Mapping[str, object]) -> None:
        self._to.write(json.dumps(line, ensure_ascii=False, separators=(",", ":")) + "\n")
        self._to.flush()
