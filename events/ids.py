"""Identities: slugs, and UUIDv5 for what must come out the same twice. New ids: `events.fresh`."""

import re
from uuid import UUID, uuid5

HUB = "_hub"
"""The project of what belongs to no project."""

NAMESPACE = UUID("6f1d3c2e-9a47-5d0b-8a53-3f7f0c1f2a90")
"""The one namespace of every derived id; changing it would change the identity of every project."""

SLUG = re.compile(r"[a-z0-9-]{1,63}")
"""A project's identity. No dots, stars or spaces: it is a token of a NATS subject."""


def derived(*parts: str) -> UUID:
    """Return the id that these parts always give; parts are length-prefixed, so no two lists collide."""
    return uuid5(NAMESPACE, "".join(f"{len(part)}:{part}" for part in parts))


def project_uuid(slug: str) -> UUID:
    """Return the uuid that reporting tables carry for this project."""
    return derived("project", slug)


def door_id(sender: str, client_id: str) -> UUID:
    """Return the log's id for what `sender` called `client_id`: nobody can claim another sender's id."""
    return derived("door", sender, client_id)


def is_slug(text: str) -> bool:
    return SLUG.fullmatch(text) is not None
