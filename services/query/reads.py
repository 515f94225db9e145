"""Reading: pages, single items, the tree and the reports, all from the read model on a read-only role."""

from collections.abc import Awaitable, Callable
from typing import LiteralString
from uuid import UUID

from starlette.responses import Response

from events.ids import project_uuid
from services.query.answers import Answers
from services.query.database import Database
from services.query.http import JSON, Asked, Caller, Handler
from services.query.listings import PROJECTS
from services.query.pages import Listing, page_body
from services.query.parameters import a_project
from services.query.problems import ambiguous, not_found
from services.query.reports import REPORTS, TREE, USAGE_BY, Report

PREFIX_CHARS_MIN = 4
NOT_MODIFIED = 304

_SQL_SLUG = "SELECT name FROM projects WHERE uuid = %(uuid)s"
_SQL_PROJECT: LiteralString = (
    f"SELECT row_to_json(line)::text FROM (SELECT {PROJECTS.item()} FROM projects WHERE uuid = %(uuid)s) AS line"  # noqa: S608  # literals
)


class Reads:
    """The handlers of every GET that the database answers alone."""

    def __init__(self, database: Database, answers: Answers) -> None:
        self._database = database
        self._answers = answers

    def listing(self, listing: Listing, *, kept: bool = True) -> Handler:
        """Pages of a listing. `kept`: the answer is the same until the read model moves on."""

        async def handler(asked: Asked) -> Response:
            page = listing.page(asked.values, asked.caller.projects)

            async def read() -> bytes:
                row = await self._database.one(page.statement, page.parameters)
                assert row is not None  # an aggregate without GROUP BY
                return page_body(page, row)

            if not kept:
                return Response(await read(), media_type=JSON)
            return await self.answered(asked, read)

        return handler

    def item(self, listing: Listing, kind: str) -> Handler:
        """One item by its uuid or a unique prefix of it."""
        one, many = _item_statement(listing, ("",)), _item_statement(listing, ())
        unscoped = _item_statement(listing, None)

        async def handler(asked: Asked) -> Response:
            low, high = uuid_range(asked.id, kind)
            values: dict[str, object] = {"low": low, "high": high}
            statement = unscoped
            if asked.caller.projects is not None and listing.scope is not None:
                statement = one if len(asked.caller.projects) == 1 else many
                values["scope"] = listing.scoped(asked.caller.projects)[1]

            async def read() -> bytes:
                rows = await self._database.rows(statement, values)
                if len(rows) > 1:
                    raise ambiguous(kind, asked.id)
                if not rows:
                    raise not_found(kind, asked.id)
                return str(rows[0][0]).encode()

            return await self.answered(asked, read)

        return handler

    async def project(self, asked: Asked) -> Response:
        """One project by slug or uuid."""
        uuid = a_project(asked.id) if len(asked.id) <= PREFIX_CHARS_MAX else None
        if uuid is None or not _sees(asked.caller, uuid):
            raise not_found("project", asked.id)

        async def read() -> bytes:
            row = await self._database.one(_SQL_PROJECT, {"uuid": uuid})
            if row is None:
                raise not_found("project", asked.id)
            return str(row[0]).encode()

        return await self.answered(asked, read)

    def report(self, report: Report) -> Handler:
        async def handler(asked: Asked) -> Response:
            return await self._report(report, asked)

        return handler

    async def usage_by(self, asked: Asked) -> Response:
        return await self._report(USAGE_BY[asked.text("by") or "project"], asked)

    def named_report(self, name: str) -> Handler:
        return self.report(REPORTS[name])

    async def tree(self, asked: Asked) -> Response:
        project = asked.values["project"]
        assert isinstance(project, UUID)
        known = await self._database.one(_SQL_SLUG, {"uuid": project}) if _sees(asked.caller, project) else None
        if known is None:
            raise not_found("project", asked.request.query_params["project"])
        return await self._report(TREE, asked)

    async def answered(self, asked: Asked, read: Callable[[], Awaitable[bytes]]) -> Response:
        """Answer from what is kept, or read; a reader who has it already is told only that."""
        scope = asked.request.scope
        answer = await self._answers.get((asked.caller.projects, scope["path"], scope["query_string"]), read)
        if asked.request.headers.get("if-none-match") == answer.tag:
            return Response(status_code=NOT_MODIFIED, headers={"ETag": answer.tag})
        return Response(
            answer.body, media_type=JSON, headers={"ETag": answer.tag, "Cache-Control": "private, no-cache"}
        )

    async def _report(self, report: Report, asked: Asked) -> Response:
        statement, values = report.ask(asked.values, asked.caller.projects)

        async def read() -> bytes:
            row = await self._database.one(statement, values)
            assert row is not None  # an aggregate without GROUP BY
            return str(row[0]).encode()

        return await self.answered(asked, read)


PREFIX_CHARS_MAX = 64
"""A slug has at most 63 characters, a uuid 36."""


def _sees(caller: Caller, project: UUID) -> bool:
    return caller.projects is None or project in {project_uuid(slug) for slug in caller.projects}


def _item_statement(listing: Listing, scope: tuple[str, ...] | None) -> LiteralString:
    mine: LiteralString = ""
    if scope is not None and listing.scope is not None:
        mine = " AND " + listing.scoped(scope)[0]
    return (
        "SELECT row_to_json(line)::text "  # noqa: S608  # every part is a literal
        f"FROM (SELECT {listing.item()} FROM {listing.source} "
        f"WHERE uuid BETWEEN %(low)s AND %(high)s{mine} LIMIT 2) AS line"
    )


def uuid_range(name: str, kind: str) -> tuple[UUID, UUID]:
    """Return the lowest and the highest uuid that begin with `name`."""
    digits = name.replace("-", "").lower()
    if len(digits) < PREFIX_CHARS_MIN:
        raise not_found(kind, name, f"write at least {PREFIX_CHARS_MIN} characters of the id")
    if len(digits) > 32 or not set(digits) <= set("0123456789abcdef"):
        raise not_found(kind, name)
    return UUID(digits.ljust(32, "0")), UUID(digits.ljust(32, "f"))
