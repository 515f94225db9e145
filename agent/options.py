"""How long an agent waits for what; what a test makes shorter."""

from pydantic import BaseModel, ConfigDict


class Options(BaseModel):
    """All in seconds."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    hub_lost_s: float = 900.0
    """Without a connection to the hub for this long, the agent seals what it has and ends itself."""
    beat_s: float = 10.0
    watch_s: float = 0.5
    """How often memory and the filesystem's counters are looked at."""
    drain_s: float = 5.0
    """For the last output lines, when the runner is over."""
    capture_deadline_s: float = 300.0
    freeze_s_max: float = 10.0
    """A capture that takes longer goes on with the sandbox running again."""
