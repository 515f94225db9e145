"""Where a machine or checkpoint is: its project and full id, from the read model, or from the log when it is too new."""

from dataclasses import dataclass
from enum import Enum
from typing import LiteralString
from uuid import UUID

from events.address import parse
from events.ids import is_slug, project_uuid
from services.kit.log import Log
from services.query.database import Database
from services.query.http import Caller
from services.query.parameters import a_uuid
from services.query.problems import ambiguous, not_found
from services.query.reads import uuid_range

SLUGS_LOOKED_UP_MAX = 16
"""A key for more projects than this finds what is milliseconds old only through the read model."""

_SQL_SLUG = "SELECT name FROM projects WHERE uuid = %(uuid)s"


def _statement(table: LiteralString) -> LiteralString:
    return (
        f"SELECT p.name, t.uuid FROM {table} AS t JOIN projects AS p ON p.uuid = t.project_uuid "  # noqa: S608  # literals
        "WHERE t.uuid BETWEEN %(low)s AND %(high)s "
        "AND (%(scope)s::uuid[] IS NULL OR t.project_uuid = ANY(%(scope)s::uuid[])) LIMIT 2"
    )


class Kind(Enum):
    """What can be found: its name, how the read model knows it, the event that it begins with."""

    MACHINE = ("machine", _statement("intelligent_machines"), "MachineRequested")
    CHECKPOINT = ("checkpoint", _statement("checkpoints"), "CheckpointTaken")

    def __init__(self, noun: str, statement: LiteralString, first_event: str) -> None:
        self.noun = noun
        self.statement: LiteralString = statement
        self.first_event = first_event


@dataclass(frozen=True, slots=True)
class Places:
    """Looks things up for those who may see them; what others have is not found."""

    database: Database
    log: Log

    async def slug(self, name: str, caller: Caller) -> str:
        """Return the slug of a project given by slug or uuid. A slug need not exist: the door says that.

        Raises:
            HttpProblem: 404, there is none that the caller may see.
        """
        try:
            uuid = a_uuid(name)
        except ValueError:
            if not is_slug(name) or not caller.may_see(name):
                raise not_found("project", name) from None
            return name
        row = await self.database.one(_SQL_SLUG, {"uuid": uuid})
        if row is None or not caller.may_see(str(row[0])):
            raise not_found("project", name)
        return str(row[0])

    async def find(self, kind: Kind, name: str, caller: Caller) -> tuple[str, UUID]:
        """Return slug and full id of what `name` is the id, or a unique prefix, of.

        Raises:
            HttpProblem: 404, or 409 where a prefix is not unique; never because of what the caller may not see.
        """
        low, high = uuid_range(name, kind.noun)
        scope = None if caller.projects is None else [project_uuid(slug) for slug in caller.projects]
        rows = await self.database.rows(kind.statement, {"low": low, "high": high, "scope": scope})
        if len(rows) > 1:
            raise ambiguous(kind.noun, name)
        if rows:
            slug, found = rows[0]
            assert isinstance(found, UUID)
            return str(slug), found
        if low == high and (slug := await self._in_the_log(kind, low, caller)):
            return slug, low
        raise not_found(kind.noun, name)

    async def _in_the_log(self, kind: Kind, uuid: UUID, caller: Caller) -> str | None:
        slugs = ("*",) if caller.projects is None else caller.projects[:SLUGS_LOOKED_UP_MAX]
        for slug in slugs:
            first = await self.log.reader.last(f"av.{slug}.{kind.noun}.{uuid}.{kind.first_event}")
            if first is not None:
                return parse(first.subject)[0].project
        return None
