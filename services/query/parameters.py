"""Query parameters: declared once, and from that read, checked and documented."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from decimal import Decimal, InvalidOperation
from enum import StrEnum
from typing import LiteralString
from uuid import UUID

from events.ids import project_uuid
from services.query.problems import bad_parameter

TEXT_CHARS_MAX = 400
AMOUNT_CHARS_MAX = 40
WHOLE_MAX = 2**63 - 1


@dataclass(frozen=True, slots=True)
class Parameter:
    """One query parameter. `expects` says what a good value is, in errors and in OpenAPI."""

    name: str
    parse: Callable[[str], object]
    expects: str
    clause: LiteralString = ""
    """What it asks of a row, with `%(name)s`; empty: it chooses no rows."""
    required: bool = False
    words: tuple[str, ...] = ()

    def needed(self) -> "Parameter":
        return replace(self, required=True)

    def choosing(self, clause: LiteralString) -> "Parameter":
        return replace(self, clause=clause)

    def read(self, value: str) -> object:
        """
        Raises:
            HttpProblem: 400, it is not what is expected.
        """
        if "\0" in value or len(value) > TEXT_CHARS_MAX:
            raise bad_parameter(self.name, value, f"{self.expects}, of at most {TEXT_CHARS_MAX} characters")
        try:
            return self.parse(value)
        except (ValueError, InvalidOperation, OverflowError) as error:
            raise bad_parameter(self.name, value, self.expects) from error


def read_all(declared: Mapping[str, Parameter], given: Iterable[tuple[str, str]]) -> dict[str, object]:
    """Return the values by name.

    Raises:
        HttpProblem: 400: one is unknown, malformed, missing, or given twice (only one of them could count).
    """
    values: dict[str, object] = {}
    for name, value in given:
        parameter = declared.get(name)
        if parameter is None:
            known = ", ".join(declared) or "none"
            raise bad_parameter(name, value, f"a parameter here; there are {known}")
        if name in values:
            raise bad_parameter(name, value, "given once")
        values[name] = parameter.read(value)
    for name, parameter in declared.items():
        if parameter.required and name not in values:
            raise bad_parameter(name, "", f"given; it is needed: {parameter.expects}")
    return values


def by_uuid(name: str, clause: LiteralString = "") -> Parameter:
    return Parameter(name, a_uuid, "a uuid", clause)


def by_word(name: str, words: type[StrEnum] | Sequence[str], clause: LiteralString = "") -> Parameter:
    known = tuple(words)

    def parse(value: str) -> str:
        if value not in known:
            raise ValueError(value)
        return value

    return Parameter(name, parse, "one of " + ", ".join(known), clause, words=known)


def by_time(name: str, clause: LiteralString = "") -> Parameter:
    return Parameter(name, a_time, "a time with its zone, like 2026-11-20T12:00:00Z", clause)


def by_text(name: str, clause: LiteralString = "") -> Parameter:
    return Parameter(name, str, f"text of at most {TEXT_CHARS_MAX} characters", clause)


def by_number(
    name: str, clause: LiteralString = "", *, least: int = 0, most: int = WHOLE_MAX, meaning: str = ""
) -> Parameter:
    expects = f"a whole number from {least} to {most}" + (f": {meaning}" if meaning else "")
    return Parameter(name, lambda value: a_number(value, least, most), expects, clause)


def by_amount(name: str, clause: LiteralString = "") -> Parameter:
    return Parameter(name, an_amount, "a decimal number", clause)


def by_flag(name: str, meaning: str) -> Parameter:
    return Parameter(name, lambda value: bool(a_number(value, 0, 1)), f"1 or 0: {meaning}", words=("0", "1"))


def by_project(clause: LiteralString = "") -> Parameter:
    return Parameter("project", a_project, "a project's slug or uuid", clause)


def a_number(value: str, least: int, most: int) -> int:
    if not (value.isascii() and value.isdigit() and len(value) <= 19 and least <= int(value) <= most):
        raise ValueError(value)
    return int(value)


def a_uuid(value: str) -> UUID:
    """Read a uuid as it is written everywhere; the other spellings that Python takes could be slugs."""
    uuid = UUID(value)
    if str(uuid) != value.lower():
        raise ValueError(value)
    return uuid


def a_project(value: str) -> UUID:
    """Read a project by uuid or slug."""
    try:
        return a_uuid(value)
    except ValueError:
        return project_uuid(value)


def a_time(value: str) -> datetime:
    when = datetime.fromisoformat(value)
    if when.tzinfo is None or not 1 < when.year < 9999:
        raise ValueError(value)
    return when


def an_amount(value: str) -> Decimal:
    amount = Decimal(value)
    if not amount.is_finite() or len(value) > AMOUNT_CHARS_MAX or abs(amount.adjusted()) > AMOUNT_CHARS_MAX:
        raise ValueError(value)
    return amount


AT_LEAST_SEQ = by_number("at_least_seq", meaning="the event that an answer must at least contain")
"""Taken by the edge: it waits until the read model is that far."""
