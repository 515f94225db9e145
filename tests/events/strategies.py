"""Hypothesis strategies for every event, derived from the models themselves: a new field is generated unasked."""

import types
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from enum import Enum
from typing import Annotated, Any, Literal, Union, get_args, get_origin
from uuid import UUID

from annotated_types import Ge, Gt, Le, MaxLen, MinLen
from hypothesis import strategies as st
from pydantic import AwareDatetime, BaseModel
from pydantic.fields import FieldInfo

from events.base import Event
from events.machine import InjectedFile

TEXT_MAX = 12
"""Long texts are tried where bounds are; here they would only be slow."""
ITEMS_MAX = 3
Pools = Mapping[str, st.SearchStrategy[Any]]
"""Strategies by field name, for what must coincide now and then: ids, times."""

_OFFSETS = st.sampled_from([UTC, timezone(timedelta(hours=-8)), timezone(timedelta(hours=5, minutes=30))])
_TIMES = st.datetimes(datetime(2001, 1, 1), datetime(2099, 1, 1), timezones=_OFFSETS)  # noqa: DTZ001 # given by timezones
_TEXTS = st.characters(exclude_categories=["Cs"])
_DIGESTS = st.integers(0, 2**256 - 1).map(lambda number: f"{number:064x}")


def events(event: type[Event], pools: Pools | None = None) -> st.SearchStrategy[Event]:
    """Return valid events of a type; optional fields are left out now and then."""
    return _model(event, pools or {})


def _model(model: type[BaseModel], pools: Pools) -> st.SearchStrategy[Any]:
    if model is InjectedFile:
        return _files()
    required: dict[str, st.SearchStrategy[Any]] = {}
    optional: dict[str, st.SearchStrategy[Any]] = {}
    for name, field in model.model_fields.items():
        strategy = pools[name] if name in pools else _field(field, pools)
        (required if field.is_required() else optional)[name] = strategy
    return st.fixed_dictionaries(required, optional=optional).map(lambda values: model(**values))


def _files() -> st.SearchStrategy[InjectedFile]:
    paths = st.from_regex(r"[a-z]{1,8}(/[a-z]{1,8}){0,2}", fullmatch=True)
    contents = st.one_of(
        st.text(_TEXTS, max_size=TEXT_MAX).map(lambda text: {"text": text}),
        _DIGESTS.map(lambda digest: {"digest": digest}),
    )
    return st.builds(_file, paths, contents)


def _file(path: str, content: dict[str, str]) -> InjectedFile:
    return InjectedFile(path=path, **content)  # pyright: ignore[reportArgumentType] # text or digest


def _field(field: FieldInfo, pools: Pools) -> st.SearchStrategy[Any]:
    return _of(field.annotation, list(field.metadata), pools)


def _of(annotation: Any, metadata: list[Any], pools: Pools) -> st.SearchStrategy[Any]:  # noqa: ANN401, PLR0911 # a return per kind of any type
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        inner, *extra = arguments
        for part in extra:
            metadata = [*metadata, *(part.metadata if isinstance(part, FieldInfo) else [part])]
        return _of(inner, metadata, pools)
    if origin in {Union, types.UnionType}:
        return st.one_of([_of(argument, metadata, pools) for argument in arguments])
    if origin is Literal:
        return st.sampled_from(arguments)
    if origin is tuple:
        least, most = _sizes(metadata, ITEMS_MAX)
        return st.lists(_of(arguments[0], [], pools), min_size=least, max_size=most).map(tuple)
    if origin is dict:
        key, value = (_of(argument, [], pools) for argument in arguments)
        least, most = _sizes(metadata, ITEMS_MAX)
        return st.dictionaries(key, value, min_size=least, max_size=most)
    if annotation is type(None):
        return st.none()
    if issubclass(annotation, BaseModel):
        return _model(annotation, pools)
    return _plain(annotation, metadata)


def _plain(annotation: type[Any], metadata: list[Any]) -> st.SearchStrategy[Any]:
    if issubclass(annotation, Enum):
        return st.sampled_from(annotation)
    makers: dict[Any, Callable[[], st.SearchStrategy[Any]]] = {
        str: lambda: _text(metadata),
        bool: st.booleans,
        int: lambda: st.integers(_bound(metadata, Ge, Gt), _bound(metadata, Le)),
        Decimal: lambda: _decimals(metadata),
        UUID: st.uuids,
        datetime: lambda: _TIMES,
        AwareDatetime: lambda: _TIMES,
    }
    return makers[annotation]()


def _text(metadata: list[Any]) -> st.SearchStrategy[str]:
    pattern = next((found for part in metadata if (found := getattr(part, "pattern", None))), None)
    if pattern:
        return st.from_regex(pattern.replace("$", r"\Z"))  # pyright: ignore[reportUnknownVariableType] # a table of strategies of any type
    least, most = _sizes(metadata, TEXT_MAX)
    return st.text(_TEXTS, min_size=least, max_size=most)


def _decimals(metadata: list[Any]) -> st.SearchStrategy[Decimal]:
    places = next(found for part in metadata if (found := getattr(part, "decimal_places", None)) is not None)
    most = _bound(metadata, Le)
    top = 10**20 - 1 if most is None else int(most) * 10**places
    return st.integers(0, top).map(lambda number: Decimal(number).scaleb(-places))


def _sizes(metadata: list[Any], most: int) -> tuple[int, int]:
    least = next((part.min_length for part in metadata if isinstance(part, MinLen)), 0)
    limit = next((part.max_length for part in metadata if isinstance(part, MaxLen)), most)
    return least, max(least, min(most, limit))


def _bound(metadata: list[Any], *kinds: type[Any]) -> int | None:
    for part in metadata:
        for kind in kinds:
            if isinstance(part, kind):
                return getattr(part, kind.__name__.lower()) + (1 if kind is Gt else 0)
    return None
