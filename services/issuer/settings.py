"""Settings of the issuer."""

from pathlib import Path

from pydantic import AliasChoices, Field

from services.kit.settings import ServiceSettings

DAY_S = 86_400


class IssuerSettings(ServiceSettings):
    """Where the signing keys are, and how long what is signed lives."""

    issuer_keys: Path = Path(".data/keys")
    """Directory of the signing keys, mode 0700; losing it means making every credential anew."""
    nats_system_creds: Path | None = Field(
        default=None, validation_alias=AliasChoices("AUTOVIBE_NATS_SYSTEM_CREDS", "NATS_SYSTEM_CREDS")
    )
    """Credentials of the system account, to push accounts with."""
    machine_ttl_s: int = Field(default=3_600, ge=1, le=31 * DAY_S)
    """For machines whose spawner asks for no time of its own."""
    machine_ttl_max_s: int = Field(default=31 * DAY_S, ge=1, le=31 * DAY_S)
    """The longest goal and its margin; a machine's credentials are revoked when it ends, long before."""
    client_ttl_s: int = Field(default=90 * DAY_S, ge=1)
    client_ttl_max_s: int = Field(default=3_660 * DAY_S, ge=1)
    push_retry_s: float = Field(default=1.0, gt=0, le=60)
    """When an account that the server did not take is pushed again."""
