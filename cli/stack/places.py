"""Where the parts of a running stack are."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Places:
    """Where everything is once it runs."""

    nats_url: str
    nats_creds: Path | None
    nats_system_creds: Path | None
    nats_monitor_url: str | None
    """Where the embedded server says why it does not store."""
    keys: Path
    database_url: str
    """As the owner of the tables."""
    database_admin_url: str
    """As whoever may make roles; for migrations only."""
    database_reader_url: str
    store: Path
    scratch: Path
    """Where checkpoints are restored to be compared; emptied at every start."""
    machines: Path
    host: str
    http_port: int
    store_port: int
    gateway_port: int
