"""Keyset pages: one statement per combination of filters, the JSON built by the database.

A page is `{"items": [...], "next": cursor or null}`. The cursor is the sort key of the last item, so a page costs
the same however deep it is, and rows that arrive meanwhile shift nothing. Amounts are decimal strings.
"""

import base64
import binascii
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import LiteralString, NamedTuple

import orjson

from events.ids import project_uuid
from services.query.parameters import AT_LEAST_SEQ, WHOLE_MAX, Parameter, a_number, a_time, a_uuid, by_number
from services.query.problems import bad_parameter

LIMIT_DEFAULT = 50
LIMIT_MAX = 500
ROWS: Mapping[int, LiteralString] = {LIMIT_DEFAULT: "51", LIMIT_MAX: "501"}
"""Rows to read (one more than shown) where they can be written out: with a parameter as LIMIT the server plans anew
each time, which costs as much as the read (measured: 0.75 ms of its CPU for a page instead of 0.45)."""
CURSOR_CHARS_MAX = 400

KEY_PARSERS: Mapping[str, Callable[[str], object]] = {
    "timestamptz": a_time,
    "uuid": a_uuid,
    "bigint": partial(a_number, least=0, most=WHOLE_MAX),
}


class Cursor(NamedTuple):
    """The sort key of the last item that was seen."""

    key: str
    tie: str


class Page(NamedTuple):
    """A statement that answers one row: items as JSON text, number found, key and tie of the last item."""

    statement: LiteralString
    parameters: dict[str, object]
    limit: int


def write_cursor(key: str, tie: str) -> str:
    return base64.urlsafe_b64encode(orjson.dumps([key, tie])).decode().rstrip("=")


def read_cursor(text: str) -> Cursor:
    try:
        key, tie = orjson.loads(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)))
    except (binascii.Error, TypeError) as error:
        raise ValueError(text[:10]) from error
    if not isinstance(key, str) or not isinstance(tie, str):
        raise ValueError(text[:10])
    return Cursor(key, tie)


PAGING = (
    by_number("limit", least=1, most=LIMIT_MAX, meaning=f"items on a page, {LIMIT_DEFAULT} unless told"),
    Parameter("cursor", read_cursor, "the `next` of an earlier page"),
)


_NO_FILTERS = {parameter.name for parameter in (*PAGING, AT_LEAST_SEQ)}


@dataclass(frozen=True, slots=True)
class Listing:
    """A table as pages, newest first by `key`, then `tie`: columns that are never null and leave as they are."""

    columns: tuple[tuple[LiteralString, LiteralString], ...]
    """Name in the JSON, SQL expression."""
    source: LiteralString
    key: LiteralString
    key_type: LiteralString
    tie: LiteralString
    tie_type: LiteralString
    filters: tuple[Parameter, ...] = ()
    scope: LiteralString | None = None
    """Column that says whose a row is; None: the rows belong to no project."""
    scope_by_name: bool = False
    """Whether that column holds slugs instead of uuids."""
    defaults: Mapping[str, object] = field(default_factory=dict[str, object])
    """What filters are when nothing is asked."""
    _statements: dict[tuple[str, ...], LiteralString] = field(
        init=False, repr=False, compare=False, default_factory=dict[tuple[str, ...], LiteralString]
    )
    """One per combination of filters that was asked for; bounded by the filters there are."""

    @property
    def parameters(self) -> tuple[Parameter, ...]:
        return (*self.filters, *PAGING)

    def item(self) -> LiteralString:
        """The select list of one item."""
        return ", ".join([f"{expression} AS {name}" for name, expression in self.columns])

    def page(self, asked: Mapping[str, object], scope: Sequence[str] | None) -> Page:
        """Turn checked parameters into a statement; `scope` holds slugs, None means every project.

        Raises:
            HttpProblem: 400, the cursor belongs to another listing.
        """
        asked = {**self.defaults, **asked}
        parameters = {name: value for name, value in asked.items() if name not in _NO_FILTERS}
        chosen = sorted(parameters)
        limit = asked.get("limit", LIMIT_DEFAULT)
        assert isinstance(limit, int)
        cursor = asked.get("cursor")
        if isinstance(cursor, Cursor):
            parameters["after_key"], parameters["after_tie"] = self._place(cursor)
            chosen.append("/after")
        if scope is not None and self.scope is not None:
            clause, parameters["scope"] = self.scoped(scope)
            chosen.append(clause)
        if limit in ROWS:
            chosen.append(ROWS[limit])
        else:
            parameters["found_max"] = limit + 1
        kind = tuple(chosen)
        statement = self._statements.get(kind)
        if statement is None:
            statement = self._statements.setdefault(kind, self._statement(kind))
        return Page(statement, parameters, limit)

    def scoped(self, slugs: Sequence[str]) -> tuple[LiteralString, object]:
        """The clause that keeps to these projects, and its `%(scope)s`. One project is compared as `=`: only then
        does the index give the order as well."""
        assert self.scope is not None
        owners: list[object] = list(slugs) if self.scope_by_name else [project_uuid(slug) for slug in slugs]
        if len(owners) == 1:
            return f"{self.scope} = %(scope)s", owners[0]
        array: LiteralString = "text[]" if self.scope_by_name else "uuid[]"
        return f"{self.scope} = ANY(%(scope)s::{array})", owners

    def _place(self, cursor: Cursor) -> tuple[object, object]:
        try:
            return KEY_PARSERS[self.key_type](cursor.key), KEY_PARSERS[self.tie_type](cursor.tie)
        except (ValueError, OverflowError) as error:
            raise bad_parameter("cursor", write_cursor(*cursor), "the `next` of an earlier page of this") from error

    def _statement(self, kind: tuple[str, ...]) -> LiteralString:
        clauses: list[LiteralString] = [filter_.clause for filter_ in self.filters if filter_.name in kind]
        if "/after" in kind:
            clauses.append(self._after())
        if self.scope is not None:
            one, many = self.scoped(("",))[0], self.scoped(())[0]
            if one in kind:
                clauses.append(one)
            elif many in kind:
                clauses.append(many)
        where: LiteralString = " WHERE " + " AND ".join(clauses) if clauses else ""
        rows: LiteralString = "%(found_max)s"
        for known in ROWS.values():
            rows = known if known in kind else rows
        last: LiteralString = f"FILTER (WHERE n = {rows} - 1)"
        return f"""
            SELECT coalesce(string_agg(item, ',' ORDER BY n) FILTER (WHERE n < {rows}), ''), count(*),
                   max(sort_key) {last}, max(sort_tie) {last}
              FROM (SELECT row_to_json(line)::text AS item,
                           line.{self.key}::text AS sort_key, line.{self.tie}::text AS sort_tie,
                           row_number() OVER ({self._order("line.")}) AS n
                      FROM (SELECT {self.item()}
                              FROM {self.source}
                            {where}
                            {self._order("")}
                             LIMIT {rows}) AS line) AS page
        """  # noqa: S608  # every part is a literal, says the type

    def _order(self, table: LiteralString) -> LiteralString:
        if self.key == self.tie:
            return f"ORDER BY {table}{self.key} DESC"
        return f"ORDER BY {table}{self.key} DESC, {table}{self.tie} DESC"

    def _after(self) -> LiteralString:
        if self.key == self.tie:
            return f"{self.key} < %(after_key)s::{self.key_type}"
        return f"({self.key}, {self.tie}) < (%(after_key)s::{self.key_type}, %(after_tie)s::{self.tie_type})"


def page_body(page: Page, row: Sequence[object]) -> bytes:
    items, found, last_key, last_tie = row
    assert isinstance(items, str) and isinstance(found, int)  # noqa: PT018  # what the statement selects
    following = orjson.dumps(write_cursor(str(last_key), str(last_tie)) if found > page.limit else None)
    return b'{"items":[' + items.encode() + b'],"next":' + following + b"}"
