"""What the hub tells an agent; every command is answered."""

import asyncio
import json

import structlog
from nats.aio.msg import Msg
from nats.errors import Error
from pydantic import ValidationError

from agent.captures import Captures
from agent.verdict import Reason, Verdict
from events.agent import Capture, Stop

ANSWERING_MAX = 32

log = structlog.get_logger()


class Commands:
    """Hears `cmd.<project>.<machine>.<epoch>.<Command>`; a capture is answered when it is done, not awaited here."""

    def __init__(self, captures: Captures, verdict: Verdict) -> None:
        self._captures, self._verdict = captures, verdict
        self._answering: set[asyncio.Task[None]] = set()

    async def hear(self, message: Msg) -> None:
        if not message.reply:
            # A sibling can have an acknowledgement of its own delivered here, but never one that asks for an answer.
            log.warning("command.ignored", subject=message.subject, reason="it asks for no answer, the hub always does")
            return
        try:
            match message.subject.rpartition(".")[2]:
                case "Stop":
                    stop = Stop.model_validate_json(message.data or b"{}")
                    await _answer(message, {})
                    self._verdict.give(Reason(stop.outcome, stop.reason, stop.grace_s, stop.seal))
                case "Capture":
                    await self._capture(message, Capture.model_validate_json(message.data))
                case name:
                    await _answer(message, {"error": f"there is no command {name[:100]!r}; Capture and Stop there are"})
        except ValidationError as reason:
            await _answer(message, {"error": str(reason)[:2000]})

    async def close(self) -> None:
        for task in self._answering:
            task.cancel()
        await asyncio.gather(*self._answering, return_exceptions=True)

    async def _capture(self, message: Msg, asked: Capture) -> None:
        if len(self._answering) >= ANSWERING_MAX:
            await _answer(message, {"error": f"{ANSWERING_MAX} commands are being answered already"})
            return
        task = asyncio.create_task(self._answer_capture(message, asked))
        self._answering.add(task)
        task.add_done_callback(self._answering.discard)

    async def _answer_capture(self, message: Msg, asked: Capture) -> None:
        answer = await self._captures.on_request(asked)
        await _answer(message, {"report": type(answer).__name__, **answer.model_dump(mode="json", exclude_none=True)})


async def _answer(message: Msg, body: dict[str, object]) -> None:
    """Answer, unless nobody waits for it; an answer that is lost is asked for again by the hub."""
    if not message.reply:
        return
    try:
        await message.respond(json.dumps(body).encode())
    except (Error, OSError) as reason:
        log.info("answer.lost", subject=message.subject, reason=str(reason) or repr(reason))
