"""What a handler hears and how it answers."""

from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from pydantic import ValidationError

from events.agent import REPORTS
from events.base import Value
from services.kit.errors import KitError
from services.kit.message import RawMessage


class Later(KitError):
    """Raised by a handler: it cannot be done now; deliver it again after `delay_s`."""

    def __init__(self, delay_s: float, reason: str) -> None:
        super().__init__(reason)
        self.delay_s = delay_s


class Never(KitError):
    """Raised by a handler: it can never be done; bury it now, with the reason. A report is refused, not buried."""


class Killer(KitError):
    """The message was delivered too often without an answer: it has been killing the process."""


class Poison(KitError):
    """The message cannot even be read; it is buried at once. A report is refused, not buried."""


@dataclass(frozen=True, slots=True)
class Report:
    """What an agent says. The subject says who speaks; the body is only a claim."""

    project: str
    machine_id: UUID
    epoch: int
    type: str
    model: Value
    msg_id: str
    """The sender's `Nats-Msg-Id`, else `IN:<seq>`."""
    recorded_at: datetime


def report_of(message: RawMessage) -> Report:
    """Read `from.<project>.<machine>.<epoch>.<service>.<Report>`.

    Raises:
        Poison: Odd subject, unknown report, or a body that does not fit.
    """
    tokens = message.subject.split(".")
    if len(tokens) != 6 or tokens[0] != "from":
        raise Poison(f"subject {message.subject[:200]!r} is not from.<project>.<machine>.<epoch>.<service>.<Report>")
    _, project, machine, epoch, _, name = tokens
    model = REPORTS.get(name)
    if model is None:
        raise Poison(f"report {name[:100]!r} does not exist")
    try:
        return Report(
            project=project,
            machine_id=UUID(machine),
            epoch=int(epoch),
            type=name,
            model=model.model_validate_json(message.data),
            msg_id=message.headers.get("Nats-Msg-Id") or f"IN:{message.seq}",
            recorded_at=message.recorded_at,
        )
    except (ValueError, ValidationError) as error:
        raise Poison(f"{name}: {error}") from error
