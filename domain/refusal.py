"""Refusals in words: which field, which value, which limit, what to do. Bounded and printable, whatever came in."""

from collections.abc import Mapping, Sequence
from typing import cast

from pydantic import BaseModel, ValidationError

from events import registry
from events.records import Problem

TYPES_SHOWN_MAX = 40
_LIMITS = ("max_length", "min_length", "ge", "gt", "le", "lt", "pattern", "expected", "max_digits", "decimal_places")


def cut(text: str, chars_max: int) -> str:
    """Return the text printable and short enough, saying how much is missing."""
    # A little more than is kept is enough to know that something is missing.
    clean = "".join(
        char if char.isprintable() else char.encode("unicode_escape", "backslashreplace").decode("ascii")
        for char in text[: chars_max + 1]
    )
    if len(clean) <= chars_max:
        return clean
    tail = f"… ({len(text)} chars)"
    return clean[: chars_max - len(tail)] + tail


def unknown_type(type_name: str) -> Problem:
    known = ", ".join(sorted(registry.DOOR)[:TYPES_SHOWN_MAX])
    event = registry.EVENTS.get(type_name)
    if event is not None:
        sayers = ", ".join(said.value for said in event.said_by)
        return Problem(
            code="not_allowed",
            message=f"{type_name} is said by {sayers} alone and does not come through the door",
            field="type",
            value=type_name,
            limit=cut(known, 400),
        )
    return Problem(
        code="unknown_type",
        message=f"there is no event type {cut(type_name, 100)!r}",
        field="type",
        value=cut(type_name, 400),
        limit=cut(known, 400),
        remedy=f"one of: {known}",
    )


def from_validation(error: ValidationError, model: type[BaseModel]) -> Problem:
    """Say the first thing that is wrong with a body, and how many more there are."""
    errors = error.errors(include_url=False)
    first = errors[0]
    context = cast("Mapping[str, object]", first.get("ctx", {}))
    field = ".".join(str(part) for part in first["loc"])
    more = f" (and {len(errors) - 1} more)" if len(errors) > 1 else ""
    limits = [f"{name} {context[name]}" for name in _LIMITS if name in context]
    return Problem(
        code="bad_body",
        message=cut(f"{model.__name__}: {field or 'body'}: {first['msg']}", 2_000) + more,
        field=cut(field or "body", 400),
        value=cut(_shown(first["type"], first["input"]), 400),
        limit=cut(", ".join(limits), 400),
        remedy=_remedy(first["type"], model),
    )


def _shown(kind: str, value: object) -> str:
    """What was sent, as it was sent; of a whole body only how long it is."""
    if kind == "json_invalid":
        return f"{len(value)} bytes" if isinstance(value, bytes | str) else ""
    if isinstance(value, dict | list | tuple):
        return f"a value with {len(cast('Sequence[object]', value))} entries"
    return repr(value) if isinstance(value, str) else str(value)


def _remedy(kind: str, model: type[BaseModel]) -> str:
    fields = ", ".join(model.model_fields) or "none"
    match kind:
        case "json_invalid" | "model_type":
            return "send a JSON object, at least {}"
        case "extra_forbidden" | "missing":
            return cut(f"fields of {model.__name__}: {fields}", 1_000)
        case _:
            return ""
