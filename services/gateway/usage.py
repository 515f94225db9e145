"""What an answer says it used, gathered while it passes; and what can be said where it says nothing."""

from dataclasses import dataclass, field
from typing import Protocol, cast

import orjson

from events.call import Tokens

TOKENS_MAX = 1_000_000_000
"""More in one call is no number of tokens but garbage."""

Json = dict[str, object]


@dataclass(slots=True)
class Usage:
    """What is known of one call's use so far."""

    input: int | None = None
    output: int | None = None
    cache_read: int = 0
    cache_write_5m: int = 0
    cache_write_1h: int = 0
    thinking: int = 0
    server_tools: dict[str, int] = field(default_factory=dict[str, int])
    service_tier: str | None = None
    speed: str | None = None
    inference_geo: str | None = None
    stop_reason: str | None = None
    output_bytes: int = 0
    """Of what the model said, as text: it has at most so many tokens."""
    is_complete: bool = False
    """The provider has said the last word on what was used."""
    garbage: int = 0
    """Parts of the answer that could not be read."""
    may_hide: bool = False
    """The model may think without a word of it in the stream, so an answer that was cut may have cost all that it could."""
    error: str = ""
    """What the provider said went wrong within the answer."""

    @property
    def has_begun(self) -> bool:
        """Whether the provider has said, in words that could be read, what went in, or the model anything."""
        return self.input is not None or (self.output_bytes > 0 and not self.garbage)

    def input_side(self) -> Tokens:
        return Tokens(
            input=self.input or 0,
            cache_read=self.cache_read,
            cache_write_5m=self.cache_write_5m,
            cache_write_1h=self.cache_write_1h,
        )

    def tokens(self, input_max: Tokens, output_max: int) -> Tokens:
        """Return all that was used; what the provider did not say is taken for the most that it can have been."""
        known = self.input_side() if self.input is not None else input_max
        said = self.output or 0
        if not self.is_complete:
            hidden = self.may_hide and self.stop_reason is None
            said = max(said, output_max if hidden else min(self.output_bytes, output_max))
        return known.model_copy(update={"output": said})


class Meter(Protocol):
    """Reads one answer."""

    usage: Usage

    def on_event(self, data: bytes) -> list[tuple[str, str]]:
        """Read an event of a stream. Returns the tool calls, name and input, that it completes."""
        ...

    def on_body(self, body: bytes) -> list[tuple[str, str]]:
        """Read a whole answer that does not stream. Returns its tool calls."""
        ...

    def drops(self, data: bytes) -> bool:
        """Whether this event is only there because we asked for it, and is not the client's."""
        ...


def parsed(data: bytes) -> Json | None:
    """Return the JSON object that this is; None: it is none."""
    try:
        found = cast("object", orjson.loads(data))
    except ValueError:
        return None
    return cast("Json", found) if isinstance(found, dict) else None


def as_object(value: object) -> Json:
    return cast("Json", value) if isinstance(value, dict) else {}


def as_list(value: object) -> list[object]:
    return cast("list[object]", value) if isinstance(value, list) else []


def as_text(value: object) -> str:
    return value if isinstance(value, str) else ""


def count(value: object) -> int | None:
    """Return a number of tokens; None: it is none."""
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= TOKENS_MAX:
        return value
    return None


def name_or_none(value: object) -> str | None:
    return value[:200] if isinstance(value, str) and value else None
