"""Single answers that are no page: one event, the event types, and how the hub stands."""

from collections.abc import Awaitable, Callable
from typing import LiteralString

from starlette.responses import Response

from events.ids import project_uuid
from events.registry import EVENTS as EVENT_TYPES
from services.query.database import Database
from services.query.http import JSON, Asked, json_response
from services.query.listings import EVENTS
from services.query.parameters import WHOLE_MAX, a_number, a_uuid
from services.query.position import Position
from services.query.problems import not_found

_SQL_EVENT: LiteralString = (
    f"SELECT row_to_json(line)::text FROM (SELECT {EVENTS.item()} FROM events WHERE seq = %(seq)s "  # noqa: S608  # literals
    "AND (%(scope)s::text[] IS NULL OR project = ANY(%(scope)s::text[]))) AS line"
)
_SQL_EVENT_BY_ID: LiteralString = (
    f"SELECT row_to_json(line)::text FROM (SELECT {EVENTS.item()} FROM events WHERE id = %(id)s "  # noqa: S608  # literals
    "AND (%(scope)s::text[] IS NULL OR project = ANY(%(scope)s::text[])) LIMIT 1) AS line"
)
_SQL_PHASES = """
    SELECT phase, count(*)
      FROM intelligent_machines
     WHERE %(scope)s::uuid[] IS NULL OR project_uuid = ANY(%(scope)s::uuid[])
     GROUP BY phase
     ORDER BY phase
"""
_SQL_PROJECTS = """
    SELECT count(*)
      FROM projects
     WHERE %(scope)s::uuid[] IS NULL OR uuid = ANY(%(scope)s::uuid[])
"""


class Status:
    """Handlers of what is neither a page nor a report."""

    def __init__(
        self, database: Database, position: Position, log_end: Callable[[], Awaitable[int]], version: str
    ) -> None:
        self._database = database
        self._position = position
        self._log_end = log_end
        self._version = version

    async def event(self, asked: Asked) -> Response:
        """One event by sequence number or id. An id is looked for in all events: there is no index on it."""
        scope = None if asked.caller.projects is None else list(asked.caller.projects)
        try:
            if asked.id.isdigit():
                values: dict[str, object] = {"seq": a_number(asked.id, 0, WHOLE_MAX), "scope": scope}
                row = await self._database.one(_SQL_EVENT, values)
            else:
                row = await self._database.one(_SQL_EVENT_BY_ID, {"id": a_uuid(asked.id), "scope": scope})
        except ValueError:
            raise not_found("event", asked.id) from None
        if row is None:
            raise not_found("event", asked.id)
        return Response(str(row[0]), media_type=JSON)

    async def event_types(self, asked: Asked) -> Response:
        del asked
        return json_response(
            {
                "items": [
                    {
                        "type": name,
                        "aggregate": event.aggregate,
                        "said_by": list(event.said_by),
                        "through_the_door": event.through_the_door(),
                        "version": event.version,
                        "summary": (event.__doc__ or "").partition("\n")[0],
                    }
                    for name, event in sorted(EVENT_TYPES.items())
                ]
            }
        )

    async def status(self, asked: Asked) -> Response:
        """How far log and read model are, and what the caller's projects hold. Sequence numbers count all projects."""
        projects = asked.caller.projects
        scope = {"scope": None if projects is None else [project_uuid(slug) for slug in projects]}
        phases = await self._database.rows(_SQL_PHASES, scope)
        count = await self._database.one(_SQL_PROJECTS, scope)
        end, position = await self._log_end(), self._position
        read_model: dict[str, object] = {"seq": position.seq, "behind": max(0, end - position.seq)}
        read_model["state"] = position.state
        if projects is None and position.halted_reason:
            read_model["halted_reason"] = position.halted_reason
        return json_response(
            {
                "service": "autovibe-hub",
                "version": self._version,
                "log": {"seq": end},
                "read_model": read_model,
                "projects": count[0] if count else 0,
                "machines": {str(phase): found for phase, found in phases},
            }
        )
