"""Records of what was refused, in the stream REJECTED: bounded, the oldest goes first. Who sent it can read them."""

import re

from nats.errors import Error as NatsError
from nats.js.errors import Error as JetStreamError

from events.fresh import now
from events.records import EXCERPT_CHARS_MAX, Problem, Rejected
from schema.streams import REJECTED
from services.kit.bus import Bus
from services.kit.errors import Transient
from services.kit.message import RawMessage

_TOKEN = re.compile(r"[A-Za-z0-9_-]{1,128}")


async def record(bus: Bus, subject: str, rejected: Rejected, msg_id: str) -> None:
    """Store a record; once, however often it is said with this `msg_id`.

    Raises:
        Transient: It may not be stored; what it is about must stay where it is.
    """
    body = rejected.model_dump_json(exclude_none=True).encode()
    try:
        await bus.js.publish(subject, body, stream=REJECTED, headers={"Nats-Msg-Id": msg_id})
    except (NatsError, JetStreamError, TimeoutError) as error:
        raise Transient(f"the refusal of {msg_id} could not be recorded: {error!r}") from error


async def record_report(bus: Bus, stream: str, message: RawMessage, problem: Problem) -> None:
    """Store that a report was refused, under `rejected.<project>.machine.<machine_id>.<Report>`; raises as `record`."""
    tokens = [token_of(part) for part in message.subject.split(".")] + ["_"] * 6
    _, project, machine_id, _, _, name = tokens[:6]
    rejected = Rejected(
        problem=problem,
        sender=f"machine:{machine_id}",
        subject=shown(message.subject, 1_024),
        client_id=shown(message.headers.get("Nats-Msg-Id", ""), 400),
        excerpt=shown(message.data[:EXCERPT_CHARS_MAX].decode("utf-8", "backslashreplace"), EXCERPT_CHARS_MAX),
        size_bytes=len(message.data),
        rejected_at=now(),
    )
    subject = f"rejected.{project}.machine.{machine_id}.{name}"
    await record(bus, subject, rejected, f"{stream}:{message.seq}@{message.recorded_ns}")


def shown(text: str, chars_max: int) -> str:
    """Return the text printable and short enough, whatever an agent wrote into it."""
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape", "backslashreplace").decode("ascii")
        for char in text[:chars_max]
    )[:chars_max]


def token_of(part: str) -> str:
    """Return a part of a subject that somebody else chose, or `_` where it could not be one of ours."""
    return part if _TOKEN.fullmatch(part) else "_"
