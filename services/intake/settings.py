"""Settings of the intake."""

from pydantic import Field

from events.words import MachineType
from services.kit.settings import ServiceSettings

DEFAULT_MODELS = {
    MachineType.CLAUDE_API: "claude-haiku-4-5",
    MachineType.CLAUDE_CODE: "claude-sonnet-4-5",
    MachineType.AIDER: "claude-sonnet-4-5",
    MachineType.QWEN_CODER: "qwen3-coder-plus",
}


class IntakeSettings(ServiceSettings):
    """How the door is kept."""

    machine_types_enabled: tuple[MachineType, ...] = (
        MachineType.SHELL,
        MachineType.CLAUDE_API,
        MachineType.CLAUDE_CODE,
        MachineType.QWEN_CODER,
        MachineType.AIDER,
    )
    """What can be run here; everything else is refused at the door."""
    default_models: dict[MachineType, str] = DEFAULT_MODELS
    """The model by machine type where neither the request nor the project names one; JSON in the environment."""
    door_rate_per_s: float = Field(default=500.0, gt=0)
    """Knocks of one project in the long run."""
    door_burst: int = Field(default=2_000, ge=1)
    door_asked_at_once_max: int = Field(default=256, ge=1, le=10_000)
    """Asking clients served at once; more are told to ask again."""
    door_published_at_once: int = Field(default=32, ge=1, le=256)
    """Published knocks handled at once."""
    door_append_deadline_s: float = Field(default=5.0, gt=0, le=60)
    """After it an asking client is told to ask again."""
    door_full_delay_s: float = Field(default=5.0, gt=0, le=600)
    """When a published knock is tried again while the log is full."""
