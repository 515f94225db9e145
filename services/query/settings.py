"""Settings of the query service."""

from pathlib import Path

from pydantic import Field

from services.kit.settings import DatabaseSettings, ServiceSettings


class QuerySettings(ServiceSettings, DatabaseSettings):
    """`database_url` as the role `autovibe_reader`, or one that may become nothing more."""

    query_host: str = "127.0.0.1"
    query_port: int = Field(default=8000, ge=0, le=65_535)
    """0: a free one."""
    query_cors_origins: tuple[str, ...] = ()
    """Origins whose pages may read this API in a browser; none unless told."""
    query_statement_timeout_ms: int = Field(default=10_000, ge=100, le=600_000)
    query_wait_s: float = Field(default=5.0, gt=0, le=60)
    """How long `at_least_seq` may wait for the read model."""
    query_connections_max: int = Field(default=2_000, ge=10)
    """HTTP connections at once; more are answered 503."""
    query_streams_max: int = Field(default=200, ge=1)
    query_streams_per_key_max: int = Field(default=64, ge=1)
    query_keep_alive_s: float = Field(default=15.0, gt=0, le=30)
    """A stream says something at least this often."""
    query_kept_answers_max: int = Field(default=1_000, ge=0)
    """Answers kept until the read model moves on; 0: every read asks the database."""
    query_door_deadline_s: float = Field(default=10.0, gt=0, le=60)
    store: Path | None = None
    """Directory of the chunk store, for diffs; without it they are refused."""
