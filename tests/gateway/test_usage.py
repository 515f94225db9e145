"""What an answer says it used, also where it contradicts itself, is garbage, or is cut."""

import pytest

from events.call import Tokens
from services.gateway.anthropic import AnthropicMeter
from services.gateway.openai import OpenaiMeter
from services.gateway.usage import Json, Usage
from tests.gateway.provider import USAGE, anthropic_events, event

BOUND, OUTPUT_MAX = Tokens(cache_write_1h=7_000), 500
ALL_OF_IT = Tokens(cache_write_1h=7_000, output=500)
THINKS: Json = {"type": "content_block_start", "content_block": {"type": "thinking", "thinking": ""}}
SUMMARY: Json = {"type": "content_block_delta", "delta": {"type": "thinking_delta", "thinking": "Hm."}}
SIGNED: Json = {"type": "content_block_delta", "delta": {"type": "signature_delta", "signature": "s" * 40}}
ENDS: Json = {"type": "content_block_stop"}


def start(usage: Json) -> Json:
    return {"type": "message_start", "message": {"usage": usage}}


def end(usage: Json) -> Json:
    return {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": usage}


def read(*events: Json | bytes) -> Usage:
    meter = AnthropicMeter()
    for each in events:
        raw = each if isinstance(each, bytes) else event(each)
        meter.on_event(raw.partition(b"data: ")[2].strip())
    return meter.usage


def used(usage: Usage) -> Tokens:
    return usage.tokens(BOUND, OUTPUT_MAX)


def test_an_end_that_says_less_than_the_start_takes_nothing_back() -> None:
    less: Json = {"input_tokens": 3, "output_tokens": 9, "cache_read_input_tokens": 1}
    usage = read(start({**USAGE, "output_tokens": 30}), end(less))
    assert used(usage) == Tokens(input=25, output=30, cache_read=1_000, cache_write_5m=60, cache_write_1h=40)
    assert usage.is_complete


def test_an_end_that_says_more_than_the_start_counts() -> None:
    usage = read(start({**USAGE}), end({"input_tokens": 80, "output_tokens": 9, "cache_creation_input_tokens": 150}))
    assert used(usage) == Tokens(input=80, output=9, cache_read=1_000, cache_write_5m=110, cache_write_1h=40)


def test_a_sum_of_cache_writes_is_divided_when_it_is_said_how() -> None:
    whole: Json = {"input_tokens": 1, "cache_creation_input_tokens": 100}
    split: Json = {"cache_creation": {"ephemeral_1h_input_tokens": 70, "ephemeral_5m_input_tokens": 30}}
    usage = read(start(whole), end({**split, "output_tokens": 1}))
    assert used(usage) == Tokens(input=1, output=1, cache_write_5m=30, cache_write_1h=70)


@pytest.mark.parametrize("wrong", [-1, "20", 20.0, True, None, 10**12, [], {}])
def test_what_is_no_number_of_tokens_is_not_believed_and_what_came_is_counted(wrong: object) -> None:
    usage = read(*anthropic_events("Hello")[:-2], end({"output_tokens": wrong}))
    assert not usage.is_complete
    assert used(usage).output == len("Hello")
    nothing = read(start({"input_tokens": wrong, "output_tokens": 5}), end({"output_tokens": 5}))
    assert not nothing.is_complete, "what went in was not said"
    assert used(nothing) == Tokens(cache_write_1h=7_000, output=5)


def test_more_than_can_be_thought_of_is_taken_from_no_other_field() -> None:
    usage = read(start({"input_tokens": 1}), end({"output_tokens": 2, "output_tokens_details": {"thinking_tokens": 9}}))
    assert (used(usage).output, usage.thinking) == (2, 9)


def test_an_answer_cut_while_it_thinks_may_have_thought_as_much_as_it_could() -> None:
    begun = anthropic_events()[0]
    assert used(read(begun, THINKS)).output == OUTPUT_MAX
    assert used(read(begun, THINKS, SUMMARY)).output == OUTPUT_MAX, "a summary is shorter than the thoughts"
    assert used(read(begun, THINKS, SUMMARY, SIGNED, ENDS)).output == len("Hm." + "s" * 40)


def test_an_answer_of_which_nothing_could_be_read_has_not_begun() -> None:
    assert not read().has_begun
    assert not read(b"data: {\n\n").has_begun
    assert read(anthropic_events()[0]).has_begun


def test_use_is_said_several_times_and_only_the_end_makes_it_whole() -> None:
    begun = anthropic_events("Hello")[:-2]
    so_far: list[Json] = [{"type": "message_delta", "delta": {}, "usage": {"output_tokens": n}} for n in (5, 12)]
    cut = read(*begun, *so_far)
    assert not cut.is_complete, "an answer that is cut here goes on at the provider"
    assert used(cut).output == 12
    whole = read(*begun, *so_far, end({"output_tokens": 20}), {"type": "message_stop"})
    assert (used(whole).output, whole.is_complete, whole.stop_reason) == (20, True, "end_turn")
    unsaid = read(*begun, *so_far, {"type": "message_stop"})
    assert (used(unsaid).output, unsaid.is_complete) == (12, True), "no reason to stop is said by those who know none"


def test_openai_usage_with_every_chunk_is_whole_at_the_end_only() -> None:
    def chunk(said: int, finish: str = "null", index: int = 0) -> bytes:
        usage = b'"usage":{"prompt_tokens":10,"completion_tokens":%d}' % said
        return b'{"choices":[{"index":%d,"delta":{"content":"x"},"finish_reason":%b}],%b}' % (
            index,
            finish.encode(),
            usage,
        )

    meter = OpenaiMeter()
    for data in (chunk(1), chunk(2, index=1), chunk(3, '"stop"')):
        meter.on_event(data)
        assert not meter.usage.is_complete
    assert used(OpenaiMeter().usage).output == OUTPUT_MAX
    meter.on_event(chunk(4, '"stop"', index=1))
    assert (meter.usage.is_complete, used(meter.usage).output) == (True, 4)
    meter = OpenaiMeter()
    meter.on_event(chunk(1))
    assert used(meter.usage) == Tokens(input=10, output=OUTPUT_MAX), "what is thought is not in the stream"
    meter.on_event(b"[DONE]")
    assert used(meter.usage) == Tokens(input=10, output=1)


def test_openai_usage_counts_as_it_was_said_most() -> None:
    meter = OpenaiMeter()
    for tokens in (20, 3):
        meter.on_event(b'{"usage":{"prompt_tokens":10,"completion_tokens":%d}}' % tokens)
    assert used(meter.usage) == Tokens(input=10, output=20)
    for wrong in (b"-1", b'"7"', b"1.5"):
        meter = OpenaiMeter()
        meter.on_event(b'{"usage":{"prompt_tokens":%b,"completion_tokens":%b}}' % (wrong, wrong))
        assert not meter.usage.is_complete
        assert used(meter.usage) == ALL_OF_IT
