"""OpenAI's chat completions and embeddings, and whoever speaks as it: what is asked for, and what was used.

A stream says what it used only when it is asked to, in a chunk of its own without choices; its `prompt_tokens` include what
was read from a cache.
"""

from dataclasses import replace

from services.gateway.body import SLACK_TOKENS, Asked, with_number, with_usage_asked
from services.gateway.refusals import RefusedCall, invalid
from services.gateway.settings import Upstream
from services.gateway.usage import Json, Usage, as_list, as_object, as_text, count, name_or_none, parsed

IMAGE_TOKENS_MAX = 5_000
ANSWERS_MAX = 128


def parse_chat(raw: bytes, body: Json, upstream: Upstream) -> Asked:
    """Say what the request asks for, with a bound of its output and, when it streams, a wish for its usage.

    Raises:
        RefusedCall: It asks for more answers than can be had, or for tools at the provider.
    """
    field = "max_completion_tokens" if "max_completion_tokens" in body else "max_tokens"
    output_max = count(body.get(field)) or 0
    if output_max < 1:
        output_max = upstream.output_tokens_default
        raw, body = with_number(raw, body, field, output_max)
    answers = count(body.get("n")) or 1
    if answers > ANSWERS_MAX:
        raise RefusedCall(invalid(f"n: at most {ANSWERS_MAX} answers, asked for {answers}"))
    if any(
        as_text(as_object(tool).get("type")) not in {"", "function", "custom"} for tool in as_list(body.get("tools"))
    ):
        raise RefusedCall(invalid("a tool that runs at the provider is not allowed here"))
    if "web_search_options" in body:
        raise RefusedCall(invalid("web_search_options: a tool that runs at the provider is not allowed here"))
    asked = Asked(
        raw=raw,
        body=body,
        model=as_text(body.get("model")),
        stream=body.get("stream") is True,
        input_tokens_max=_input_max(raw, upstream),
        output_tokens_max=output_max * answers,
        output_field=field,
        answers=answers,
        speed=None,
    )
    return with_usage_asked(asked) if asked.stream else asked


def parse_embeddings(raw: bytes, body: Json, upstream: Upstream) -> Asked:
    """Say what the request asks for; it has no output."""
    return Asked(
        raw=raw,
        body=body,
        model=as_text(body.get("model")),
        stream=False,
        input_tokens_max=_input_max(raw, upstream),
        output_tokens_max=0,
    )


def clamped(asked: Asked, output_tokens_max: int) -> Asked:
    """Lower the bound of the output to what is granted, shared among the answers."""
    if output_tokens_max >= asked.output_tokens_max:
        return asked
    each = output_tokens_max // asked.answers
    if each < 1:
        raise RefusedCall(invalid(f"n: {asked.answers} answers cannot be had of {output_tokens_max} tokens"))
    raw, body = with_number(asked.raw, asked.body, asked.output_field, each)
    return replace(asked, raw=raw, body=body, output_tokens_max=each * asked.answers)


def _input_max(raw: bytes, upstream: Upstream) -> int:
    if b'"file_id"' in raw:
        return upstream.context_tokens_max
    return min(upstream.context_tokens_max, len(raw) + SLACK_TOKENS + IMAGE_TOKENS_MAX * raw.count(b'"image_url"'))


class OpenaiMeter:
    """Reads one answer; `drops_usage`: the chunk with the usage is ours, not the client's."""

    def __init__(self, *, drops_usage: bool = False) -> None:
        self.usage = Usage(may_hide=True)
        self._drops_usage = drops_usage
        self._said_usage = False
        self._unfinished: set[object] = set()
        self._tools: dict[tuple[object, object], tuple[list[str], list[str]]] = {}

    def on_event(self, data: bytes) -> list[tuple[str, str]]:
        if data == b"[DONE]":
            self._is_over()
        if data == b"[DONE]" or not data:
            return []
        found = parsed(data)
        if found is None:
            self.usage.garbage += 1
            self.usage.output_bytes += len(data)
            return []
        self._take(as_object(found.get("usage")))
        if "error" in found:
            error = as_object(found.get("error"))
            self.usage.error = f"{as_text(error.get('type'))}: {as_text(error.get('message'))}"[:1000]
        ended = False
        for choice in (as_object(one) for one in as_list(found.get("choices"))):
            index = str(choice.get("index"))
            self._delta(index, as_object(choice.get("delta")))
            self._unfinished.add(index)
            if (reason := name_or_none(choice.get("finish_reason"))) is not None:
                self.usage.stop_reason, ended = reason, True
                self._unfinished.discard(index)
        if not self._unfinished or found.get("choices") == []:
            self._is_over()
        return self._complete() if ended else []

    def on_body(self, body: bytes) -> list[tuple[str, str]]:
        found = parsed(body)
        if found is None:
            self.usage.garbage += 1
            self.usage.output_bytes = len(body)
            return []
        self._take(as_object(found.get("usage")))
        self._is_over()
        if not self.usage.is_complete:
            self.usage.output_bytes = len(body)
        tools: list[tuple[str, str]] = []
        for choice in (as_object(one) for one in as_list(found.get("choices"))):
            self.usage.stop_reason = name_or_none(choice.get("finish_reason")) or self.usage.stop_reason
            for call in as_list(as_object(choice.get("message")).get("tool_calls")):
                function = as_object(as_object(call).get("function"))
                tools.append((as_text(function.get("name")), as_text(function.get("arguments"))))
        return tools

    def drops(self, data: bytes) -> bool:
        if not self._drops_usage or b'"usage"' not in data:
            return False
        found = parsed(data)
        return found is not None and found.get("choices") == [] and bool(found.get("usage"))

    def _delta(self, index: object, delta: Json) -> None:
        for key in ("content", "reasoning_content", "reasoning", "refusal"):
            self.usage.output_bytes += len(as_text(delta.get(key)).encode("utf-8", "surrogatepass"))
        for call in (as_object(one) for one in as_list(delta.get("tool_calls"))):
            function = as_object(call.get("function"))
            name, arguments = self._tools.setdefault((index, str(call.get("index"))), ([], []))
            name.append(as_text(function.get("name")))
            arguments.append(as_text(function.get("arguments")))
            self.usage.output_bytes += len(name[-1]) + len(arguments[-1].encode("utf-8", "surrogatepass"))

    def _complete(self) -> list[tuple[str, str]]:
        tools, self._tools = self._tools, {}
        return [("".join(name), "".join(arguments)) for name, arguments in tools.values()]

    def _take(self, said: Json) -> None:
        """Take usage in; it is the whole of the call, and its last saying counts."""
        prompt, output = count(said.get("prompt_tokens")), count(said.get("completion_tokens"))
        if prompt is None:
            return
        usage = self.usage
        cached = min(prompt, count(as_object(said.get("prompt_tokens_details")).get("cached_tokens")) or 0)
        usage.input, usage.cache_read = prompt - cached, cached
        usage.output = max(usage.output or 0, output or 0)
        details = as_object(said.get("completion_tokens_details"))
        usage.thinking = min(usage.output, count(details.get("reasoning_tokens")) or 0)
        self._said_usage = self._said_usage or output is not None or "total_tokens" in said

    def _is_over(self) -> None:
        """Some say with every chunk what was used so far; only what is said at the end is all of it."""
        self.usage.is_complete = self.usage.is_complete or self._said_usage
