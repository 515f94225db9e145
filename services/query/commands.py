"""Commands by HTTP: each only knocks at the door and answers 202 with id and sequence, or the door's refusal.

Nothing is decided here. An `Idempotency-Key` makes a repeated request the same event (and the same machine).
"""

from collections.abc import Mapping
from typing import cast
from uuid import UUID

import orjson
from starlette.requests import Request
from starlette.responses import Response

from events.address import Address
from events.base import BODY_BYTES_MAX
from events.fresh import uuid7
from events.ids import HUB, derived
from events.registry import DOOR
from services.query.door import Door
from services.query.http import Asked, Caller, json_response, read_object
from services.query.parameters import a_uuid
from services.query.places import Kind, Places
from services.query.problems import HttpProblem

KEY_CHARS_MAX = 200
ISSUERS = frozenset({"CredentialRequested", "CredentialRevokeRequested"})


class Commands:
    """The handlers of every POST, PATCH and DELETE."""

    def __init__(self, door: Door, places: Places) -> None:
        self._door = door
        self._places = places

    async def create_project(self, asked: Asked) -> Response:
        body = await read_object(asked.request)
        slug = _text(body, "name")
        if not asked.caller.may_see(slug):
            raise HttpProblem(403, "not_allowed", f"this key is not good for a project {slug[:63]!r}", field="name")
        return await self._say(asked, Address(slug, "project", slug), "ProjectCreated", body)

    async def update_project(self, asked: Asked) -> Response:
        return await self._on_project(asked, "ProjectUpdated")

    async def archive_project(self, asked: Asked) -> Response:
        return await self._on_project(asked, "ProjectArchived")

    async def create_machine(self, asked: Asked) -> Response:
        body = await read_object(asked.request)
        slug = await self._project(body, asked.caller)
        if "prompt" in body:
            body["goal"] = body.pop("prompt")
        address = Address(slug, "machine", str(_new_id(asked, slug, "machine")))
        return await self._say(asked, address, "MachineRequested", body)

    async def stop_machine(self, asked: Asked) -> Response:
        return await self._on(Kind.MACHINE, asked, "MachineStopRequested")

    async def restore_machine(self, asked: Asked) -> Response:
        return await self._on(Kind.MACHINE, asked, "MachineRestoreRequested")

    async def create_checkpoint(self, asked: Asked) -> Response:
        body = await read_object(asked.request)
        slug, machine_id = await self._places.find(
            Kind.MACHINE, _text(body, "machine_uuid", "machine_id"), asked.caller
        )
        body["machine_id"] = str(machine_id)
        address = Address(slug, "checkpoint", str(_new_id(asked, slug, "checkpoint")))
        return await self._say(asked, address, "CheckpointRequested", body)

    async def pin_checkpoint(self, asked: Asked) -> Response:
        return await self._on(Kind.CHECKPOINT, asked, "CheckpointPinned")

    async def unpin_checkpoint(self, asked: Asked) -> Response:
        return await self._on(Kind.CHECKPOINT, asked, "CheckpointUnpinned")

    async def set_budget(self, asked: Asked) -> Response:
        """Set what the hub, a project or (with `machine_uuid`) a machine may use of one resource per period."""
        return await self._on_account(asked, "BudgetRequested")

    async def top_up(self, asked: Asked) -> Response:
        """Add to what an account may use in the present period."""
        return await self._on_account(asked, "BudgetTopUpRequested")

    async def _on_account(self, asked: Asked, type_name: str) -> Response:
        body = await read_object(asked.request)
        if machine := body.pop("machine_uuid", None):
            slug, machine_id = await self._places.find(Kind.MACHINE, str(machine), asked.caller)
            body.pop("project", None)
            address = Address(slug, "budget", str(machine_id))
        elif body.get("project") == HUB:
            if asked.caller.projects is not None:
                raise HttpProblem(403, "not_allowed", "only a key for every project may set the hub's budget")
            del body["project"]
            address = Address(HUB, "budget", HUB)
        else:
            slug = await self._project(body, asked.caller)
            address = Address(slug, "budget", slug)
        return await self._say(asked, address, type_name, body)

    async def publish(self, asked: Asked) -> Response:
        """Say any event that the door takes: `{"project", "type", "id", "body"}`; a missing id is a new one."""
        content = await read_object(asked.request)
        type_name = _text(content, "type")
        slug = asked.caller.must_see(_text(content, "project"))
        if type_name in ISSUERS:
            raise HttpProblem(
                403, "not_allowed", f"{type_name} is no event; POST /api/v1/credentials asks for one", field="type"
            )
        event = DOOR.get(type_name)
        if event is None:
            raise HttpProblem(
                422,
                "unknown_type",
                f"event type {type_name[:100]!r} does not exist or may not come from outside",
                field="type",
                value=type_name[:100],
                remedy="GET /api/v1/events/types lists them",
            )
        aggregate = event.aggregate
        identity = content.pop("id", None) or (
            slug if aggregate in {"project", "budget"} else str(_new_id(asked, slug, aggregate))
        )
        body = content.pop("body", {})
        if not isinstance(body, dict):
            raise HttpProblem(400, "bad_body", "body must be a JSON object", field="body")
        if not isinstance(identity, str):
            raise HttpProblem(400, "bad_body", "id must be a text", field="id")
        if content:
            raise HttpProblem(400, "bad_body", "there are project, type, id and body", field=min(content)[:80])
        return await self._say(asked, Address(slug, aggregate, identity), type_name, cast("dict[str, object]", body))

    async def create_credential(self, asked: Asked) -> Response:
        """Ask the issuer; a repeated request is refused by it, because the secret is shown only once."""
        body = await read_object(asked.request)
        address = Address(HUB, "credential", str(_new_id(asked, HUB, "credential")))
        return await self._say(asked, address, "CredentialRequested", body, status=201)

    async def revoke_credential(self, asked: Asked) -> Response:
        try:
            credential_id = a_uuid(asked.id)
        except ValueError:
            raise HttpProblem(404, "not_found", "a credential is named by its whole id") from None
        address = Address(HUB, "credential", str(credential_id))
        return await self._say(asked, address, "CredentialRevokeRequested", {"reason": f"by {asked.caller.name}"})

    async def _on_project(self, asked: Asked, type_name: str) -> Response:
        slug = await self._places.slug(asked.id, asked.caller)
        body = await read_object(asked.request)
        return await self._say(asked, Address(slug, "project", slug), type_name, body)

    async def _on(self, kind: Kind, asked: Asked, type_name: str) -> Response:
        slug, found = await self._places.find(kind, asked.id, asked.caller)
        body = await read_object(asked.request)
        return await self._say(asked, Address(slug, kind.noun, str(found)), type_name, body)

    async def _project(self, body: dict[str, object], caller: Caller) -> str:
        uuid, slug = body.pop("project_uuid", None), body.pop("project", None)
        name = uuid or slug
        if not isinstance(name, str) or not name:
            raise HttpProblem(422, "bad_body", "the body needs project or project_uuid", field="project")
        return await self._places.slug(name, caller)

    async def _say(
        self, asked: Asked, address: Address, type_name: str, body: Mapping[str, object], *, status: int = 202
    ) -> Response:
        content = orjson.dumps(body)
        if len(content) > BODY_BYTES_MAX:
            raise HttpProblem(
                413, "too_large", f"the event has {len(content)} bytes", field="body", limit=f"{BODY_BYTES_MAX} bytes"
            )
        answer = await self._door.ask(
            address, type_name, content, client_id=_client_id(asked), actor=f"api:{asked.caller.name}"
        )
        headers = {"Autovibe-Seq": str(answer["seq"])} if "seq" in answer else None
        return json_response({"uuid": address.id, **answer}, status, headers)


def _client_id(asked: Asked) -> str:
    key = _idempotency_key(asked.request)
    return str(derived("http", asked.caller.credential_id, key) if key else uuid7())


def _new_id(asked: Asked, slug: str, aggregate: str) -> UUID:
    """A new thing's id; the same key of the same caller names the same thing."""
    key = _idempotency_key(asked.request)
    return derived("http", asked.caller.credential_id, slug, aggregate, key) if key else uuid7()


def _idempotency_key(request: Request) -> str:
    key = request.headers.get("idempotency-key", "")
    if len(key) > KEY_CHARS_MAX or not key.isprintable():
        raise HttpProblem(
            400,
            "bad_parameter",
            "the Idempotency-Key is too long or not printable",
            limit=f"{KEY_CHARS_MAX} characters",
        )
    return key


def _text(body: dict[str, object], *names: str) -> str:
    """Take the first of these that is there out of the body."""
    found = [body.pop(name, None) for name in names]
    for value in found:
        if isinstance(value, str) and value:
            return value
    raise HttpProblem(422, "bad_body", f"the body needs {names[0]}, a text", field=names[0])
