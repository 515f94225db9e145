"""Settings from the environment: `AUTOVIBE_*`, the usual names where there are any, secrets also from files.

Every setting may be given as `<NAME>_FILE` with the path of a file that holds the value, as container secrets are.
"""

import os
from pathlib import Path
from typing import Any

from pydantic import AliasChoices, Field
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from schema.streams import Sizes

PREFIX = "AUTOVIBE_"
SECRET_BYTES_MAX = 1024 * 1024


class FileSource(PydanticBaseSettingsSource):
    """Reads `<NAME>_FILE`."""

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:
        for name in _names(field, field_name):
            path = os.environ.get(f"{name}_FILE")
            if path:
                with Path(path).open(encoding="utf-8") as file:
                    return file.read(SECRET_BYTES_MAX).strip(), _key(field, field_name), False
        return None, field_name, False

    def __call__(self) -> dict[str, Any]:
        found = (self.get_field_value(field, name) for name, field in self.settings_cls.model_fields.items())
        return {key: value for value, key, _ in found if value is not None}


def _names(field: FieldInfo, field_name: str) -> list[str]:
    alias = field.validation_alias
    if isinstance(alias, AliasChoices):
        return [choice for choice in alias.choices if isinstance(choice, str)]
    return [alias] if isinstance(alias, str) else [PREFIX + field_name.upper()]


def _key(field: FieldInfo, field_name: str) -> str:
    return _names(field, field_name)[0] if field.validation_alias else field_name


class Settings(BaseSettings):
    """The base of every service's settings. Order: arguments, environment, files."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, extra="ignore", frozen=True, populate_by_name=True)

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return init_settings, env_settings, dotenv_settings, FileSource(settings_cls), file_secret_settings


class BusSettings(Settings):
    """How to reach NATS."""

    nats_url: str = Field(
        default="nats://127.0.0.1:4222", validation_alias=AliasChoices("AUTOVIBE_NATS_URL", "NATS_URL"), repr=True
    )
    """One URL, or several separated by commas."""
    nats_creds: Path | None = Field(default=None, validation_alias=AliasChoices("AUTOVIBE_NATS_CREDS", "NATS_CREDS"))
    nats_monitor_url: str | None = None
    """The server's monitoring port, e.g. http://127.0.0.1:8222: tells a full disk from a slow one at once."""
    nats_inbox_prefix: str = "_INBOX_hub"
    """The services' own; HUB exports it, so that a machine in another account can answer a command."""
    nats_connect_deadline_s: float = Field(default=30.0, gt=0)


class TopologySettings(BusSettings):
    """How large the streams may grow, and how to ask the server whether it is durable."""

    log_bytes: int = Field(default=Sizes().log_bytes, gt=0)
    in_bytes: int = Field(default=Sizes().in_bytes, gt=0)
    timers_bytes: int = Field(default=Sizes().timers_bytes, gt=0)
    output_bytes: int = Field(default=Sizes().output_bytes, gt=0)
    rejected_bytes: int = Field(default=Sizes().rejected_bytes, gt=0)
    dead_bytes: int = Field(default=Sizes().dead_bytes, gt=0)
    nats_replicas: int = Field(default=1, ge=1, le=5)
    nats_system_creds: Path | None = Field(
        default=None, validation_alias=AliasChoices("AUTOVIBE_NATS_SYSTEM_CREDS", "NATS_SYSTEM_CREDS")
    )
    """Credentials of the system account: through it the server is asked whether it is durable."""

    def sizes(self) -> Sizes:
        return Sizes(
            log_bytes=self.log_bytes,
            in_bytes=self.in_bytes,
            timers_bytes=self.timers_bytes,
            output_bytes=self.output_bytes,
            rejected_bytes=self.rejected_bytes,
            dead_bytes=self.dead_bytes,
        )


class DatabaseSettings(Settings):
    """How to reach PostgreSQL."""

    database_url: str = Field(
        default="postgresql://127.0.0.1:5432/autovibe",
        validation_alias=AliasChoices("AUTOVIBE_DATABASE_URL", "DATABASE_URL"),
        repr=False,
    )
    database_connections_max: int = Field(default=8, ge=1, le=200)


class ServiceSettings(BusSettings):
    """What every service that runs alone has."""

    health_host: str = "127.0.0.1"
    health_port: int = Field(default=8090, ge=0, le=65_535)
    """Where /healthz, /readyz and /metrics are; 0: a free one."""
    log_level: str = Field(default="info", pattern="^(?i:debug|info|warning|error)$")
    log_format: str = Field(default="auto", pattern="^(auto|json|console)$")
    """auto: console on a terminal, else JSON."""
