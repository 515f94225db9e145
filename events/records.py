"""Records beside the log: what was refused and what a handler could not do. They are never folded."""

from typing import Annotated

from pydantic import Field

from events.base import Count, Name, Text, Time, Value

EXCERPT_CHARS_MAX = 2_048


class Problem(Value):
    """Why input was refused: what was asked, what stood against it, what to do."""

    code: Name
    """`bad_subject`, `unknown_type`, `not_allowed`, `bad_body`, `too_large`, `no_such_project`, `no_such_checkpoint`,
    `id_reused`, `conflict`, `rate`, `unavailable`, …"""
    message: Text
    field: Annotated[str, Field(max_length=400)] = ""
    value: Annotated[str, Field(max_length=400)] = ""
    limit: Annotated[str, Field(max_length=400)] = ""
    remedy: Text = ""


class Rejected(Value):
    """What the door refused, and what a service refused of a machine's reports.

    Stream REJECTED, subject `rejected.<project>.<aggregate>.<id>.<Type>`, odd tokens replaced by `_`; of a report
    `rejected.<project>.machine.<machine_id>.<Report>`.
    """

    problem: Problem
    sender: Name
    subject: Annotated[str, Field(max_length=1_024)]
    client_id: Annotated[str, Field(max_length=400)] = ""
    excerpt: Annotated[str, Field(max_length=EXCERPT_CHARS_MAX)] = ""
    size_bytes: Count = 0
    rejected_at: Time


class DeadLetter(Value):
    """What a handler could not do after all attempts.

    Stream DEAD, subject `dead.<service>.<stream>.<seq>`; of a machine's report, with `.<project>.<machine_id>` after it.
    """

    service: Name
    durable: Name
    stream: Name
    seq: Count
    subject: Annotated[str, Field(max_length=1_024)]
    attempts: Count
    error: Text
    buried_at: Time
