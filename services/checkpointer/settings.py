"""Settings of the checkpointer."""

from pathlib import Path

from pydantic import Field

from services.kit.settings import ServiceSettings


class CheckpointerSettings(ServiceSettings):
    """Where the chunks are, how hard to verify, what to keep, and who may upload."""

    store_path: Path = Path("data/store")
    """Directory of the chunk store; used when this service runs alone."""
    store_threads: int = Field(default=4, ge=1, le=64)
    """Threads that may work on the store at once."""
    checkpointer_reports_at_once: int = Field(default=8, ge=1, le=1_000)
    checkpointer_command_timeout_s: float = Field(default=5.0, gt=0)
    """How long an agent may take to answer that it captures."""
    capture_deadline_s: float = Field(default=60.0, gt=0, le=300)
    """How long a capture that somebody asked for may take before it counts as failed."""
    checkpointer_look_s: float = Field(default=0.5, gt=0)
    checkpointer_retry_s: float = Field(default=2.0, gt=0)
    """How long to wait where the store or the log could not answer."""
    verify: bool = True
    verify_share: float = Field(default=0.25, gt=0, le=1)
    """The part of the time that one verifier works; the rest it leaves the machine to others."""
    verify_within_s: float = Field(default=3_600.0, gt=0)
    """A checkpoint that waits for longer is verified without pauses, and health says so."""
    verified_for_s: float = Field(default=600.0, ge=0)
    """How long one verification of a snapshot is good for other checkpoints of the same content."""
    scratch: Path | None = None
    """Where snapshots are restored to be compared; None: the system's temporary directory."""
    keep_last: int = Field(default=0, ge=0)
    keep_hourly: int = Field(default=0, ge=0)
    keep_daily: int = Field(default=0, ge=0)
    keep_weekly: int = Field(default=0, ge=0)
    keep_monthly: int = Field(default=0, ge=0)
    keep_bytes_max: int = Field(default=0, ge=0)
    """Per project; with this and all other `keep_` settings 0 nothing is ever dropped."""
    retention_every_s: float = Field(default=3_600.0, gt=0)
    sweep_grace_s: float = Field(default=86_400.0, ge=0)
    """What was put into the store within this time is not swept, so that nobody's upload or capture is."""
    store_host: str = "127.0.0.1"
    store_port: int = Field(default=8001, ge=0, le=65_535)
    """Where chunks are exchanged over HTTP; 0: a free port."""
