"""Timers: a deadline that came.

The server's scheduler writes them into the log; the service that owns the deadline looks again.
"""

from typing import Annotated, ClassVar

from pydantic import Field

from events.base import Event, Name, Time
from events.words import Said


class TimerFired(Event):
    """A deadline came. It commands nothing: the owner loads the aggregate and decides anew. Said by the server's scheduler.

    Always in the project `_hub`, so that deadlines of all projects can be heard with one filter.
    """

    aggregate: ClassVar[str] = "timer"
    said_by: ClassVar[tuple[Said, ...]] = (Said.TIMERS,)

    owner: Name
    """The service that set it: `spawner`, `budget`."""
    project: Name
    subject_aggregate: Name
    subject_id: Name
    purpose: Annotated[str, Field(max_length=200)]
    """E.g. `phase:provisioning` or `goal`."""
    due_at: Time
