"""The hub itself; the aggregate's id is the hub instance's."""

from typing import Annotated, ClassVar

from pydantic import Field

from events.base import NAME_CHARS_MAX, Event, Name, Text
from events.words import HubType, Said


class HubEvent(Event):
    """The base of what happens to a hub instance."""

    aggregate: ClassVar[str] = "hub"


class HubRegistered(HubEvent):
    """A hub instance exists; a primary hub says so at its first start. Said by hub."""

    said_by: ClassVar[tuple[Said, ...]] = (Said.HUB,)

    hub_type: HubType
    name: Name
    hub_version: Name
    config: Annotated[dict[str, Annotated[str, Field(max_length=NAME_CHARS_MAX)]], Field(max_length=64)] = {}


class HubStarted(HubEvent):
    """The hub's services came up. Said by hub."""

    said_by: ClassVar[tuple[Said, ...]] = (Said.HUB,)

    hub_version: Name


class HubStopped(HubEvent):
    """The hub's services went down in order; after a crash there is none. Said by hub."""

    said_by: ClassVar[tuple[Said, ...]] = (Said.HUB,)

    reason: Text = ""
