"""The conversation itself: ask, save, run the tools, save, ask again.

`thread=False`: the whole history goes with every request, so whoever has the file has the conversation; the SDK's
server-held threads would be gone with the machine.
"""

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, cast

import anthropic
from anthropic import AsyncAnthropic
from anthropic.lib.tools.agent_toolset import AgentToolContext, beta_agent_toolset_20260401

from agent.loop.history import History
from agent.loop.task import Task
from agent.loop.words import Words

if TYPE_CHECKING:
    from anthropic.lib.streaming import BetaAsyncMessageStream
    from anthropic.types.beta import BetaMessage, BetaMessageParam

ENOUGH = {"end_turn", "stop_sequence"}
WHY = {
    "max_tokens": "its reply reached the most output tokens that a reply may have",
    "model_context_window_exceeded": "the conversation does not fit the model's context any more",
    "refusal": "the model refused",
}
RESULT_CHARS_MAX = 4_000
"""Of a tool's result in what is said for people; the model and the file get the whole."""
_SECRETS = ("ANTHROPIC_", "PYTHONPATH", "PYTHONSAFEPATH", "PYTHONNOUSERSITE")


async def talk(task: Task, words: Words) -> int:
    """Go on from where the conversation stands until the model is done; returns the exit code."""
    history = _history(task)
    words.begin(task.conversation.stem, task.model, anthropic.__version__)
    try:
        if history.ended:  # it was done, and its end was not told
            return _judge(history.ended, history.last_text, words, 0)
        return await _turns(task, history, words)
    except anthropic.APIStatusError as error:
        words.end("api_error", f"{error.status_code}: {_message(error)}", is_error=True)
    except anthropic.APIError as error:
        words.end("api_error", str(error), is_error=True)
    finally:
        history.close()
    return 1


def _history(task: Task) -> History:
    if task.take_over is not None and not task.conversation.exists():
        return History.forked(task.conversation, task.take_over, task.prompt)
    history = History(task.conversation)
    history.settle()
    if not history.messages():
        history.add({"role": "user", "content": task.prompt})
    return history


async def _turns(task: Task, history: History, words: Words) -> int:
    environment = {name: value for name, value in os.environ.items() if not name.startswith(_SECRETS)}
    turns = 0
    context = AgentToolContext(workdir=task.workspace, env=environment)
    async with AsyncAnthropic(max_retries=task.retries_max) as client, context:
        runner = client.beta.messages.tool_runner(
            model=task.model,
            max_tokens=task.output_tokens_max,
            system=task.system,
            tools=beta_agent_toolset_20260401(context),
            messages=cast("list[BetaMessageParam]", history.messages()),
            cache_control={"type": "ephemeral"},
            max_iterations=task.turns_max,
            stream=True,
            thread=False,
        )
        async for stream in runner:
            message = await _heard(stream, words)
            turns += 1
            stop_reason = message.stop_reason or "end_turn"
            content = [_plain(block) for block in message.content]
            history.add({"role": "assistant", "content": content, "stop_reason": stop_reason})
            if stop_reason == "tool_use" and (response := await runner.generate_tool_call_response()) is not None:
                results = cast("list[dict[str, object]]", response["content"])
                history.add({"role": "user", "content": [dict(each) for each in results]})
                words.results([_short(each) for each in results])
    if not history.ended:
        words.end("max_turns", f"not done after {turns} turns, at most {task.turns_max}", is_error=True, turns=turns)
        return 1
    return _judge(history.ended, history.last_text, words, turns)


async def _heard(stream: "BetaAsyncMessageStream[None]", words: Words) -> "BetaMessage":
    """Say every block as it is complete; return the message."""
    async for event in stream:
        if event.type == "content_block_stop":
            snapshot = stream.current_message_snapshot
            words.block(snapshot.id, snapshot.model, _plain(event.content_block))
    message = await stream.get_final_message()
    usage = message.usage.model_dump(mode="json", exclude_none=True)
    words.usage(message.id, message.stop_reason or "", usage)
    return message


def _judge(stop_reason: str, text: str, words: Words, turns: int) -> int:
    if stop_reason in ENOUGH:
        words.end("completed", text, is_error=False, turns=turns)
        return 0
    words.end(stop_reason, WHY.get(stop_reason, f"it stopped: {stop_reason}"), is_error=True, turns=turns)
    return 1


def _plain(block: object) -> dict[str, object]:
    """A block of a reply as it is sent back."""
    dumped = cast("anthropic.BaseModel", block).model_dump(mode="json", exclude_none=True, by_alias=True)
    dumped.pop("parsed_output", None)
    return dumped


def _short(result: Mapping[str, object]) -> dict[str, object]:
    content = result.get("content")
    if isinstance(content, str) and len(content) > RESULT_CHARS_MAX:
        return {**result, "content": f"{content[:RESULT_CHARS_MAX]}… {len(content)} characters"}
    if isinstance(content, list):
        blocks = cast("list[Mapping[str, object]]", content)
        shown = [{"type": each.get("type"), "text": str(each.get("text", ""))[:RESULT_CHARS_MAX]} for each in blocks]
        return {**result, "content": shown}
    return dict(result)


def _message(error: anthropic.APIStatusError) -> str:
    body = error.body
    if isinstance(body, dict):
        said = cast("dict[str, object]", body).get("error")
        if isinstance(said, dict):
            return str(cast("dict[str, object]", said).get("message", error.message))
    return error.message
