"""Settings of the hub's own record."""

from pydantic import Field

from services.kit.settings import ServiceSettings


class HubSettings(ServiceSettings):
    """What the primary hub says of itself."""

    hub_name: str = Field(default="primary", min_length=1, max_length=200)
    """What the hub is called in reports; said once, when it first starts."""
