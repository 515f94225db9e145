"""Which tool calls of a model are risky: people's regular expressions, searched in time that grows with the text alone.

RE2 has no backtracking, so no pattern takes for ever; in return it has no look-around and no back-references.
"""

import functools
from collections.abc import Callable, Iterable
from typing import Protocol, cast

import re2  # pyright: ignore[reportMissingTypeStubs] # the package has none

from events.project import RiskRule

TOOL_CHARS_MAX = 200
INPUT_CHARS_MAX = 16_384
"""So much of a tool call's input is looked at. A longer one counts as found by every pattern: padding hides nothing."""
_KEPT_MAX = 1_024


class _Pattern(Protocol):
    def search(self, text: str) -> object | None: ...


_PatternError = cast("type[Exception]", re2.error)
_compile = cast("Callable[[str, object], _Pattern]", re2.compile)


def wrong_with(pattern: str) -> str:
    """Say why nothing can be searched with this pattern; empty: it can."""
    try:
        _compiled(pattern)
    except _PatternError as error:
        said = error.args[0] if error.args else error
        return said.decode(errors="replace") if isinstance(said, bytes) else str(said)
    return ""


def watching(rules: Iterable[RiskRule], tool: str) -> tuple[str, ...]:
    """Return the patterns that this tool's input is searched with."""
    return tuple(rule.input for rule in rules if _found(rule.tool, tool[:TOOL_CHARS_MAX]))


def found(patterns: Iterable[str], given: str) -> bool:
    """Say whether any pattern is found in a tool's input; one that is none counts as found.

    Takes up to half a second of a core per pattern, without the interpreter's lock.
    """
    too_long = len(given) > INPUT_CHARS_MAX
    return any(not pattern or too_long or _found(pattern, given) for pattern in patterns)


def _found(pattern: str, text: str) -> bool:
    try:
        return _compiled(pattern).search(text) is not None
    except _PatternError:
        return True


@functools.lru_cache(_KEPT_MAX)
def _compiled(pattern: str) -> _Pattern:
    options = re2.Options()
    options.log_errors = False
    return _compile(pattern, options)
