"""Dead letters: what a handler could not do after all attempts, with the error and the message itself.

A letter's body is a `DeadLetter`; the message is kept in headers beside it, because a work queue forgets what is
terminated. Retrying asks the service that buried it to handle it once more, now; only then is the letter deleted.

DEAD is bounded and, when it is full, nothing more can be buried anywhere. So of a machine's reports, which it can make
as large and as many as it likes, only the first `REPORTS_MAX` letters are kept, each cut to `REPORT_BYTES_MAX`.
"""

import base64
from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass

import orjson

from events.fresh import now
from events.records import DeadLetter
from schema.streams import DEAD
from services.kit.bus import Bus
from services.kit.errors import Refused, Transient
from services.kit.log_follow import Follower
from services.kit.message import RawMessage
from services.kit.rejected import token_of
from services.kit.wire import ApiError, mapping

BODY_HEADER = "Autovibe-Message"
"""Base64 of the message's body."""
HEADER_HEADER = "Autovibe-Headers"
"""Base64 of the message's header block."""
CUT_HEADER = "Autovibe-Cut"
"""There when the message was too large to be kept whole: it cannot be retried."""
KEPT_BYTES_MAX = 600 * 1024
CUT_BYTES = 64 * 1024
"""What is kept of a larger message."""
REPORT_BYTES_MAX = 16 * 1024
"""Of a report and its headers; a larger one is cut."""
REPORTS_MAX = 20
"""Letters of one machine, over all services; two that bury at the same moment may make it a few more."""
ERROR_CHARS_MAX = 4_000
BURY_TIMEOUT_S = 5.0
RETRY_TIMEOUT_S = 60.0


@dataclass(frozen=True, slots=True)
class Letter:
    """A dead letter and where it lies."""

    seq: int
    """In DEAD; what `retry` and `discard` take."""
    letter: DeadLetter
    message: RawMessage
    """As it was delivered; its seq is that of the stream that it came from."""
    whole: bool


def retry_subject(durable: str) -> str:
    """Return where the instances of a service that uses this durable hear retries."""
    return f"retry.{durable}"


async def bury(
    bus: Bus,
    *,
    service: str,
    durable: str,
    stream: str,
    message: RawMessage,
    attempts: int,
    error: str,
    of_agents: bool = False,
) -> bool:
    """Write a dead letter; returns when it is stored.

    Returns:
        False: it is a report of a machine that has `REPORTS_MAX` letters already, and was not stored.

    Raises:
        Transient, Refused: It was not: the message must stay where it is.
    """
    machine = "".join(f".{token_of(part)}" for part in message.subject.split(".")[1:3]) if of_agents else ""
    if machine and await _count(bus, f"dead.*.*.*{machine}") >= REPORTS_MAX:
        return False
    letter = DeadLetter(
        service=service,
        durable=durable,
        stream=stream,
        seq=message.seq,
        subject=message.subject[:1024],
        attempts=attempts,
        error=error[:ERROR_CHARS_MAX],
        buried_at=now(),
    )
    kept_max, cut_to = (REPORT_BYTES_MAX, REPORT_BYTES_MAX) if of_agents else (KEPT_BYTES_MAX, CUT_BYTES)
    whole = len(message.data) + len(message.header) <= kept_max
    headers = {
        "Nats-Msg-Id": f"{durable}:{stream}:{message.seq}:{attempts}:{letter.buried_at.timestamp()}",
        BODY_HEADER: _b64(message.data if whole else message.data[:cut_to]),
        HEADER_HEADER: _b64(message.header if whole else b""),
    }
    if not whole:
        headers[CUT_HEADER] = "1"
    block = b"NATS/1.0\r\n" + b"".join(b"%b: %b\r\n" % (k.encode(), v.encode()) for k, v in headers.items()) + b"\r\n"
    reply = await bus.wire.publish(
        f"dead.{service}.{stream}.{message.seq}{machine}", block, letter.model_dump_json().encode(), BURY_TIMEOUT_S
    )
    answer: Mapping[str, object] = orjson.loads(reply.data)
    if "error" in answer:
        raise Refused(f"the dead letter was not stored: {answer['error']}")
    return True


async def _count(bus: Bus, subject: str) -> int:
    """Return how many letters lie under a subject, at most what one answer of the server lists."""
    try:
        info = await bus.wire.api(f"STREAM.INFO.{DEAD}", {"subjects_filter": subject})
    except ApiError as error:
        raise Refused(f"the letters under {subject} could not be counted: {error}") from error
    return len(mapping(mapping(info["state"]).get("subjects") or {}))


async def letters(bus: Bus, after: int = 0) -> AsyncGenerator[Letter]:
    """Yield the dead letters that there are, oldest first."""
    follower = Follower(bus.wire, DEAD, after, ("dead.>",), 100)
    async for batch in follower.batches(stop_at_end=True):
        for message in batch:
            yield read(message)


async def find(bus: Bus, seq: int) -> Letter:
    """Return one dead letter.

    Raises:
        Refused: There is none of this number.
    """
    async for letter in letters(bus, after=seq - 1):
        if letter.seq == seq:
            return letter
        break
    raise Refused(f"there is no dead letter {seq}")


async def retry(bus: Bus, seq: int) -> None:
    """Have the service handle it once more, and delete the letter when that went well.

    Raises:
        Refused: There is none, it was cut, or the handler failed again (with its error).
        Transient: The service does not run, or did not answer; the letter stays.
    """
    letter = await find(bus, seq)
    if not letter.whole:
        raise Refused(f"dead letter {seq} was too large to be kept whole and cannot be retried")
    subject = retry_subject(letter.letter.durable)
    try:
        reply = await bus.wire.request(subject, orjson.dumps({"seq": seq}), RETRY_TIMEOUT_S)
    except Transient as error:
        raise Transient(f"service {letter.letter.service} did not take dead letter {seq}: {error}") from error
    answer: Mapping[str, object] = orjson.loads(reply.data)
    if error_text := answer.get("error"):
        raise Refused(f"dead letter {seq} failed again: {error_text}")
    await discard(bus, seq)


async def discard(bus: Bus, seq: int) -> None:
    """Delete a dead letter for good."""
    try:
        await bus.wire.api(f"STREAM.MSG.DELETE.{DEAD}", {"seq": seq, "no_erase": True})
    except ApiError as error:
        raise Refused(f"dead letter {seq} was not deleted: {error}") from error


def read(message: RawMessage) -> Letter:
    letter = DeadLetter.model_validate_json(message.data)
    headers = message.headers
    buried = RawMessage(
        letter.seq,
        letter.subject.encode(),
        base64.b64decode(headers.get(HEADER_HEADER, "")),
        base64.b64decode(headers.get(BODY_HEADER, "")),
        message.recorded_ns,
    )
    return Letter(message.seq, letter, buried, CUT_HEADER not in headers)


def _b64(data: bytes) -> str:
    return base64.b64encode(data).decode()
