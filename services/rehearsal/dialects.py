"""The two ways in which the rehearsal model is spoken to, and how it answers in each, whole or as a stream."""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import cast

from services.rehearsal.bill import Usage
from services.rehearsal.tools import Tool

Json = Mapping[str, object]
PIECE_CHARS = 24
_TTL = re.compile(rb'"ttl"\s*:\s*"1h"')


@dataclass(frozen=True, slots=True)
class Asked:
    """What matters of a request, whichever way it was made."""

    model: str
    text: str
    """What the user said."""
    call_ids: tuple[str, ...]
    """Of the tool calls that it brings results of, in order."""
    tools: frozenset[str]
    stream: bool
    output_tokens_max: int
    cache: str
    """"", "5m" or "1h": the longest cache that it asks for."""
    answered: str
    """What the model is told that it said before."""
    wants_usage: bool = True


@dataclass(frozen=True, slots=True)
class Reply:
    """What is answered."""

    id: str
    model: str
    text: str
    calls: tuple[tuple[str, Tool], ...]
    """Each with its id."""
    usage: Usage
    is_cut: bool = False
    """It had more to say than `max_tokens` lets it."""


def asked_anthropic(body: Json, raw: bytes) -> Asked:
    """Read a request of the Messages API."""
    messages = _list(body.get("messages"))
    blocks = [block for message in messages for block in _blocks(message.get("content"))]
    results = tuple(str(block.get("tool_use_id")) for block in blocks if block.get("type") == "tool_result")
    cache = "" if b"cache_control" not in raw else "1h" if _TTL.search(raw) else "5m"
    tools = frozenset(str(tool.get("name")) for tool in _list(body.get("tools")))
    return Asked(
        str(body.get("model", "")),
        _said(messages, "user"),
        results,
        tools,
        body.get("stream") is True,
        _int(body.get("max_tokens")),
        cache,
        _said(messages, "assistant"),
    )


def asked_openai(body: Json) -> Asked:
    """Read a request for a chat completion."""
    messages = _list(body.get("messages"))
    results = tuple(str(message.get("tool_call_id")) for message in messages if message.get("role") == "tool")
    functions = (tool.get("function") for tool in _list(body.get("tools")))
    tools = frozenset(str(cast("Json", each).get("name")) for each in functions if isinstance(each, dict))
    options = body.get("stream_options")
    wants = isinstance(options, dict) and cast("Json", options).get("include_usage") is True
    most = _int(body.get("max_tokens")) or _int(body.get("max_completion_tokens"))
    return Asked(
        str(body.get("model", "")),
        _said(messages, "user"),
        results,
        tools,
        body.get("stream") is True,
        most,
        "",
        _said(messages, "assistant"),
        wants_usage=wants,
    )


def anthropic_message(reply: Reply) -> Json:
    blocks: list[Json] = [{"type": "text", "text": reply.text}] if reply.text else []
    blocks += [
        {"type": "tool_use", "id": call_id, "name": tool.name, "input": tool.input} for call_id, tool in reply.calls
    ]
    return {
        "id": reply.id,
        "type": "message",
        "role": "assistant",
        "model": reply.model,
        "content": blocks,
        "stop_reason": _stop_reason(reply),
        "stop_sequence": None,
        "usage": _anthropic_usage(reply.usage),
    }


def anthropic_stream(reply: Reply) -> Iterator[bytes]:
    """Yield the events of a streamed message, each as it goes over the wire."""
    begun: dict[str, object] = {**anthropic_message(reply), "content": list[Json](), "stop_reason": None}
    begun["usage"] = {**_anthropic_usage(reply.usage), "output_tokens": 1}
    yield _event({"type": "message_start", "message": begun})
    yield _event({"type": "ping"})
    index = 0
    if reply.text:
        yield from _block(index, {"type": "text", "text": ""}, "text_delta", "text", reply.text)
        index += 1
    for number, (call_id, tool) in enumerate(reply.calls, index):
        start: Json = {"type": "tool_use", "id": call_id, "name": tool.name, "input": {}}
        yield from _block(number, start, "input_json_delta", "partial_json", json.dumps(tool.input))
    stop = {"stop_reason": _stop_reason(reply), "stop_sequence": None}
    yield _event({"type": "message_delta", "delta": stop, "usage": {"output_tokens": reply.usage.output}})
    yield _event({"type": "message_stop"})


def openai_completion(reply: Reply) -> Json:
    message: dict[str, object] = {"role": "assistant", "content": reply.text or None}
    if reply.calls:
        message["tool_calls"] = [_openai_call(index, *call) for index, call in enumerate(reply.calls)]
    choice = {"index": 0, "message": message, "finish_reason": _finish_reason(reply)}
    return {**_openai_head(reply, "chat.completion"), "choices": [choice], "usage": _openai_usage(reply.usage)}


def openai_stream(reply: Reply, *, wants_usage: bool) -> Iterator[bytes]:
    """Yield the chunks of a streamed completion; the usage only where it was asked for, as providers do."""
    head = _openai_head(reply, "chat.completion.chunk")

    def chunk(delta: Json, finish: str | None = None) -> bytes:
        return _data({**head, "choices": [{"index": 0, "delta": delta, "finish_reason": finish}]})

    yield chunk({"role": "assistant", "content": ""})
    for piece in _pieces(reply.text):
        yield chunk({"content": piece})
    for index, call in enumerate(reply.calls):
        yield chunk({"tool_calls": [_openai_call(index, *call)]})
    yield chunk({}, _finish_reason(reply))
    if wants_usage:
        yield _data({**head, "choices": [], "usage": _openai_usage(reply.usage)})
    yield b"data: [DONE]\n\n"


def _block(index: int, start: Json, kind: str, key: str, text: str) -> Iterator[bytes]:
    yield _event({"type": "content_block_start", "index": index, "content_block": start})
    for piece in _pieces(text):
        yield _event({"type": "content_block_delta", "index": index, "delta": {"type": kind, key: piece}})
    yield _event({"type": "content_block_stop", "index": index})


def _stop_reason(reply: Reply) -> str:
    return "max_tokens" if reply.is_cut else "tool_use" if reply.calls else "end_turn"


def _finish_reason(reply: Reply) -> str:
    return "length" if reply.is_cut else "tool_calls" if reply.calls else "stop"


def _anthropic_usage(usage: Usage) -> Json:
    return {
        "input_tokens": usage.input,
        "cache_creation_input_tokens": usage.cache_write_5m + usage.cache_write_1h,
        "cache_creation": {
            "ephemeral_5m_input_tokens": usage.cache_write_5m,
            "ephemeral_1h_input_tokens": usage.cache_write_1h,
        },
        "cache_read_input_tokens": usage.cache_read,
        "output_tokens": usage.output,
        "service_tier": "standard",
    }


def _openai_usage(usage: Usage) -> Json:
    return {
        "prompt_tokens": usage.all_input,
        "completion_tokens": usage.output,
        "total_tokens": usage.all_input + usage.output,
        "prompt_tokens_details": {"cached_tokens": usage.cache_read},
    }


def _openai_head(reply: Reply, kind: str) -> Json:
    return {"id": reply.id, "object": kind, "created": 1_700_000_000, "model": reply.model}


def _openai_call(index: int, call_id: str, tool: Tool) -> Json:
    function = {"name": tool.name, "arguments": json.dumps(tool.input)}
    return {"index": index, "id": call_id, "type": "function", "function": function}


def _pieces(text: str) -> Iterator[str]:
    for start in range(0, len(text), PIECE_CHARS):
        yield text[start : start + PIECE_CHARS]


def _event(data: Json) -> bytes:
    return b"event: " + str(data["type"]).encode() + b"\n" + _data(data)


def _data(data: Json) -> bytes:
    return b"data: " + json.dumps(data, separators=(",", ":")).encode() + b"\n\n"


def _said(messages: Sequence[Json], role: str) -> str:
    """The text of one side."""
    return "\n".join(
        str(block.get("text", ""))
        for message in messages
        if message.get("role") == role
        for block in _blocks(message.get("content"))
        if block.get("type") == "text"
    )


def _list(value: object) -> Sequence[Json]:
    return (
        [cast("Json", each) for each in cast("list[object]", value) if isinstance(each, dict)]
        if isinstance(value, list)
        else []
    )


def _blocks(content: object) -> Sequence[Json]:
    return [{"type": "text", "text": content}] if isinstance(content, str) else _list(content)


def _int(value: object) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) else 0
