"""Settings of the projector."""

from pydantic import Field

from services.kit.settings import DatabaseSettings, ServiceSettings


class ProjectorSettings(ServiceSettings, DatabaseSettings):
    """`database_url` as a role that is, or may become, `autovibe_projector`."""

    projector_batch_events: int = Field(default=5_000, ge=1, le=50_000)
    """At most this many events in one transaction; as few as have arrived when there are fewer."""
    projector_check_s: float = Field(default=5.0, gt=0)
    """How often the log's identity and the last projected event are looked at again."""
    projector_retry_s_max: float = Field(default=5.0, gt=0)
    """The longest pause before the database or the log is tried again."""
