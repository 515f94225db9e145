"""Anthropic's Messages: what a request asks for, and what an answer says it used.

Source: anthropic-sdk-python's types; the usage of `message_delta` is cumulative, and may leave out what `message_start` said.
"""

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from typing import Literal

import orjson

from services.gateway.body import SLACK_TOKENS, Asked, with_number
from services.gateway.refusals import RefusedCall, invalid
from services.gateway.settings import Upstream
from services.gateway.usage import Json, Usage, as_list, as_object, as_text, count, name_or_none, parsed

IMAGE_TOKENS_MAX = 5_000
SERVER_TOOL_TOKENS_MAX = 50_000
"""What one use of a tool at the provider may put into the model's input."""
_BOUNDED_TOOLS = ("web_search_", "web_fetch_")
_THOUGHTS = ("thinking", "redacted_thinking")
_SAID = ("text", "partial_json", "thinking", "signature")
_WORDS = re.compile(rb'"(?:file_id|url|image|document|cache_control|1h)"')
"""What makes a call dearer wherever it stands in the request; found in one pass, which may be over megabytes."""
_OWN_TOOLS = ("custom", "bash_", "text_editor_", "computer_", "memory_")
"""Tools that the client runs itself."""


def parse(raw: bytes, body: Json, upstream: Upstream, uses_max: int) -> Asked:
    """Say what the request asks for, with `max_tokens` in it where it named none.

    Raises:
        RefusedCall: It uses tools at the provider that are not allowed.
    """
    raw, body, tools = _server_tools(raw, body, uses_max)
    output_max = count(body.get("max_tokens")) or 0
    if output_max < 1:
        output_max = upstream.output_tokens_default
        raw, body = with_number(raw, body, "max_tokens", output_max)
    thinking = count(as_object(body.get("thinking")).get("budget_tokens")) or 0
    words = Counter(_WORDS.findall(raw))
    return Asked(
        raw=raw,
        body=body,
        model=as_text(body.get("model")),
        stream=body.get("stream") is True,
        input_tokens_max=_input_max(raw, words, upstream, sum(tools.values())),
        output_tokens_max=output_max,
        output_tokens_min=min(output_max, thinking + 1 if thinking else 0),
        cache_write=_cache_write(words),
        server_tools=tools,
        speed=name_or_none(body.get("speed")),
    )


def clamped(asked: Asked, output_tokens_max: int) -> Asked:
    """Lower `max_tokens` to what is granted."""
    if output_tokens_max >= asked.output_tokens_max:
        return asked
    raw, body = with_number(asked.raw, asked.body, "max_tokens", output_tokens_max)
    return replace(asked, raw=raw, body=body, output_tokens_max=output_tokens_max)


def _input_max(raw: bytes, words: Mapping[bytes, int], upstream: Upstream, uses: int) -> int:
    """A token is at least a byte; images and documents that are only referred to may be as large as the context."""
    is_elsewhere = b'"url"' in words and (b'"image"' in words or b'"document"' in words)
    if b'"file_id"' in words or is_elsewhere:
        bound = upstream.context_tokens_max
    else:
        images = IMAGE_TOKENS_MAX * words.get(b'"image"', 0)
        bound = min(upstream.context_tokens_max, len(raw) + SLACK_TOKENS + images)
    return bound if not uses else (uses + 1) * (bound + uses * SERVER_TOOL_TOKENS_MAX)


def _cache_write(words: Mapping[bytes, int]) -> Literal["none", "5m", "1h"]:
    if b'"cache_control"' not in words:
        return "none"
    return "1h" if b'"1h"' in words else "5m"


def _server_tools(raw: bytes, body: Json, uses_max: int) -> tuple[bytes, Json, dict[str, int]]:
    """Bound how often tools are used that run at the provider; each use makes the call's input larger."""
    uses: dict[str, int] = {}
    changed: list[object] = []
    tools = as_list(body.get("tools"))
    for tool in tools:
        own = as_object(tool)
        kind = as_text(own.get("type")) or "custom"
        if kind.startswith(_OWN_TOOLS):
            changed.append(tool)
            continue
        if not uses_max or not kind.startswith(_BOUNDED_TOOLS):
            raise RefusedCall(invalid(f"tool {kind[:100]} runs at the provider and is not allowed here"))
        most = min(count(own.get("max_uses")) or uses_max, uses_max)
        uses[kind.rpartition("_")[0]] = most
        changed.append({**own, "max_uses": most})
    if body.get("mcp_servers"):
        raise RefusedCall(invalid("mcp_servers run at the provider and are not allowed here"))
    if changed == tools:
        return raw, body, uses
    body = {**body, "tools": changed}
    return orjson.dumps(body), body, uses


class AnthropicMeter:
    """Reads one answer."""

    def __init__(self) -> None:
        self.usage = Usage()
        self._tool: tuple[str, list[str]] | None = None
        self._said_output = False

    def on_event(self, data: bytes) -> list[tuple[str, str]]:
        found = parsed(data)
        if found is None:
            self.usage.garbage += bool(data)
            self.usage.output_bytes += len(data)
            return []
        match found.get("type"):
            case "content_block_delta":  # nearly all of them
                self._delta(as_object(found.get("delta")))
            case "message_start":
                self._take(as_object(as_object(found.get("message")).get("usage")))
            case "content_block_start":
                self._starts(as_object(found.get("content_block")))
            case "content_block_stop":
                return self._stops()
            case "message_delta":
                reason = name_or_none(as_object(found.get("delta")).get("stop_reason"))
                self.usage.stop_reason = reason or self.usage.stop_reason
                usage = as_object(found.get("usage"))
                self._take(usage)
                self._said_output = self._said_output or count(usage.get("output_tokens")) is not None
                self._may_be_complete(is_over=reason is not None)
            case "message_stop":
                self._may_be_complete(is_over=True)
            case "error":
                error = as_object(found.get("error"))
                self.usage.error = f"{as_text(error.get('type'))}: {as_text(error.get('message'))}"[:1000]
            case _:
                pass
        return []

    def on_body(self, body: bytes) -> list[tuple[str, str]]:
        found = parsed(body)
        if found is None:
            self.usage.garbage += 1
            self.usage.output_bytes = len(body)
            return []
        usage = as_object(found.get("usage"))
        self._take(usage)
        self.usage.stop_reason = name_or_none(found.get("stop_reason"))
        self.usage.is_complete = self.usage.input is not None and count(usage.get("output_tokens")) is not None
        if not self.usage.is_complete:
            self.usage.output_bytes = len(body)
        blocks = [as_object(block) for block in as_list(found.get("content"))]
        return [
            (as_text(block.get("name")), _json(block.get("input")))
            for block in blocks
            if block.get("type") == "tool_use"
        ]

    def drops(self, data: bytes) -> bool:
        del data
        return False

    def _starts(self, block: Json) -> None:
        # What is thought is billed whole, and told in a summary or not at all; the signature at its end is longer than it.
        self.usage.may_hide = as_text(block.get("type")) in _THOUGHTS
        self.usage.output_bytes += len(as_text(block.get("data")))
        if block.get("type") == "tool_use":
            self._tool = (as_text(block.get("name")), [])
            self.usage.output_bytes += len(as_text(block.get("name")))

    def _delta(self, delta: Json) -> None:
        text = ""
        for key in _SAID:
            if key in delta:
                text = as_text(delta[key])
                break
        self.usage.output_bytes += len(text) if text.isascii() else len(text.encode("utf-8", "surrogatepass"))
        if self._tool is not None and "partial_json" in delta:
            self._tool[1].append(text)

    def _stops(self) -> list[tuple[str, str]]:
        self.usage.may_hide = False
        tool, self._tool = self._tool, None
        return [] if tool is None else [(tool[0], "".join(tool[1]))]

    def _may_be_complete(self, *, is_over: bool) -> None:
        """There may be several `message_delta`s, each with the use so far; only what is said at the end is all of it."""
        usage = self.usage
        usage.is_complete = usage.is_complete or (is_over and self._said_output and usage.input is not None)

    def _take(self, said: Json) -> None:
        """Take usage in, field by field; what is null or absent leaves what is known, and what is less takes nothing back.

        What is said is of the whole answer so far, so less than before contradicts it: the most that was said counts.
        """
        usage = self.usage
        if (tokens := count(said.get("input_tokens"))) is not None:
            usage.input = max(usage.input or 0, tokens)
        if (tokens := count(said.get("output_tokens"))) is not None:
            usage.output = max(usage.output or 0, tokens)
        if (tokens := count(said.get("cache_read_input_tokens"))) is not None:
            usage.cache_read = max(usage.cache_read, tokens)
        self._take_writes(said)
        details = as_object(said.get("output_tokens_details"))
        usage.thinking = count(details.get("thinking_tokens")) or usage.thinking
        for name, uses in as_object(said.get("server_tool_use")).items():
            if (used := count(uses)) and len(usage.server_tools) < 16:
                usage.server_tools[name.removesuffix("_requests")[:200]] = used
        usage.service_tier = name_or_none(said.get("service_tier")) or usage.service_tier
        usage.speed = name_or_none(said.get("speed")) or usage.speed
        usage.inference_geo = name_or_none(said.get("inference_geo")) or usage.inference_geo

    def _take_writes(self, said: Json) -> None:
        """Cache writes by how long they live; a sum without its split keeps the split that was said before."""
        usage, split = self.usage, as_object(said.get("cache_creation"))
        hour = count(split.get("ephemeral_1h_input_tokens")) or 0
        minutes = count(split.get("ephemeral_5m_input_tokens")) or 0
        before = usage.cache_write_1h + usage.cache_write_5m
        whole = max(before, hour + minutes, count(said.get("cache_creation_input_tokens")) or 0)
        usage.cache_write_1h = max(usage.cache_write_1h, hour)
        usage.cache_write_5m = whole - usage.cache_write_1h


def _json(value: object) -> str:
    return orjson.dumps(value).decode()
