"""Requests: what must be known of one, and the few numbers that are changed in it; all other bytes stay as they are."""

import re
from dataclasses import dataclass, field, replace
from typing import Literal

import orjson

from services.gateway.refusals import RefusedCall, invalid
from services.gateway.usage import Json, parsed

_CONTROLS = re.compile(
    rb'"(?:model|max_tokens|max_completion_tokens|stream|stream_options|thinking|n|service_tier|speed)"\s*:'
)
_ESCAPED_PRINTABLE = re.compile(rb"\\u00[2-7][0-9a-fA-F]")
SLACK_TOKENS = 4_096
"""What providers put around a request: their prompt for tools, marks between messages."""


@dataclass(frozen=True, slots=True)
class Asked:
    """What a client asks for."""

    raw: bytes
    body: Json
    model: str
    stream: bool
    input_tokens_max: int
    output_tokens_max: int
    """0: it has no output."""
    output_field: str = "max_tokens"
    """Where the request bounds its output."""
    output_tokens_min: int = 0
    answers: int = 1
    """So many answers, each with its own output."""
    cache_write: Literal["none", "5m", "1h"] = "none"
    server_tools: dict[str, int] = field(default_factory=dict[str, int])
    speed: str | None = None
    drops_usage: bool = False
    """We ask for the usage of a stream, the client did not."""


def read(raw: bytes) -> tuple[bytes, Json]:
    """Return the request's bytes and what they say.

    Where two readers of JSON could read it differently (a name twice, names spelled by escapes) it is written anew, so that
    the provider reads what we have read.

    Raises:
        RefusedCall: It is no JSON object.
    """
    body = parsed(raw)
    if body is None:
        raise RefusedCall(invalid("the request is no JSON object"))
    names = [match.group().rstrip(b": \t\r\n") for match in _CONTROLS.finditer(raw)]
    if len(names) != len(set(names)) or _ESCAPED_PRINTABLE.search(raw):
        raw = orjson.dumps(body)
    return raw, body


def with_number(raw: bytes, body: Json, name: str, value: int) -> tuple[bytes, Json]:
    """Set one number of a request and leave all its other bytes."""
    if body.get(name) == value and type(body.get(name)) is int:
        return raw, body
    wanted = {**body, name: value}
    if name not in body:
        return _inserted(raw, b'"%b":%d' % (name.encode(), value), wanted)
    found = re.search(rb'("%b"\s*:\s*)(-?[0-9.eE+-]+|null)' % name.encode(), raw)
    if found is not None:
        changed = b"%b%b%d%b" % (raw[: found.start()], found.group(1), value, raw[found.end() :])
        if parsed(changed) == wanted:
            return changed, wanted
    return orjson.dumps(wanted), wanted


def with_usage_asked(asked: Asked) -> Asked:
    """Have a stream end with its usage, as OpenAI's do only when they are asked."""
    options = asked.body.get("stream_options")
    if isinstance(options, dict) and options.get("include_usage") is True:  # pyright: ignore[reportUnknownMemberType] # any JSON
        return asked
    wanted = {**asked.body, "stream_options": {"include_usage": True}}
    if "stream_options" in asked.body:
        raw = orjson.dumps(wanted)
    else:
        raw, _ = _inserted(asked.raw, b'"stream_options":{"include_usage":true}', wanted)
    return replace(asked, raw=raw, body=wanted, drops_usage=True)


def _inserted(raw: bytes, member: bytes, wanted: Json) -> tuple[bytes, Json]:
    brace = raw.index(b"{") + 1
    comma = b"," if len(wanted) > 1 else b""
    changed = raw[:brace] + member + comma + raw[brace:]
    return (changed if parsed(changed) == wanted else orjson.dumps(wanted)), wanted
