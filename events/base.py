"""The base of every event and the bounded field types they are made of.

Reading history ignores unknown fields, so old code reads new events; the door refuses them
(`events.registry.parse_at_door`). Nothing here knows a subject, a header or a clock.
"""

from datetime import datetime
from decimal import Decimal
from typing import Annotated, ClassVar
from uuid import UUID

from pydantic import AwareDatetime, BaseModel, BeforeValidator, ConfigDict, Field, PlainSerializer

from events.words import Said

GOAL_CHARS_MAX = 65_536
TEXT_CHARS_MAX = 4_096
NAME_CHARS_MAX = 200
BODY_BYTES_MAX = 262_144
"""The door refuses larger bodies; the server's own limit is higher so that the refusal can be said."""


def _decimal_string(value: object) -> object:
    if isinstance(value, Decimal):
        return value
    if not isinstance(value, str):
        raise ValueError(f'must be a decimal string like "1.50", not the {type(value).__name__} {value!r}')
    return value


def _plain(value: Decimal) -> str:
    return format(value, "f")


def _utc(value: datetime) -> str:
    return value.isoformat().replace("+00:00", "Z")


_AmountText = Annotated[str, Field(pattern=r"^[0-9]{1,11}(\.[0-9]{1,9})?$")]
_ShareText = Annotated[str, Field(pattern=r"^(0(\.[0-9]{1,2})?|1(\.0{1,2})?)$")]

Amount = Annotated[
    Decimal,
    # The bounds stand first: after the validator pydantic would check them in Python, at twice the cost of an event.
    Field(ge=0, max_digits=20, decimal_places=9, allow_inf_nan=False),
    BeforeValidator(_decimal_string, json_schema_input_type=_AmountText),
    PlainSerializer(_plain, return_type=str, when_used="json"),
]
"""A non-negative exact quantity, NUMERIC(20,9); on the wire a decimal string, never a float. 0 is a valid cap."""

Money = Amount
"""An amount of money; the field beside it (`unit`, `currency`) says which."""

Greediness = Annotated[
    Decimal,
    Field(ge=0, le=1, decimal_places=2, allow_inf_nan=False),
    BeforeValidator(_decimal_string, json_schema_input_type=_ShareText),
    PlainSerializer(_plain, return_type=str, when_used="json"),
]
Slug = Annotated[str, Field(pattern=r"^[a-z0-9-]{1,63}$")]
Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$", description="BLAKE3, lower-case hex")]
Goal = Annotated[str, Field(min_length=1, max_length=GOAL_CHARS_MAX)]
Text = Annotated[str, Field(max_length=TEXT_CHARS_MAX)]
Name = Annotated[str, Field(min_length=1, max_length=NAME_CHARS_MAX)]
Epoch = Annotated[int, Field(ge=1, le=1_000_000)]
Count = Annotated[int, Field(ge=0, le=2**63 - 1)]
Time = Annotated[AwareDatetime, PlainSerializer(_utc, return_type=str, when_used="json")]
Id = UUID


class Value(BaseModel):
    """A frozen part of an event's body."""

    model_config = ConfigDict(frozen=True, extra="ignore")


class Event(BaseModel):
    """Something that happened. The body holds only that; id, time, actor and cause travel beside it."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    aggregate: ClassVar[str]
    """The kind of thing it happened to: the third token of its subject."""
    said_by: ClassVar[tuple[Said, ...]]
    """Who may say it. `Said.DOOR` in it: it may come from outside, through the intake."""
    version: ClassVar[int] = 1

    @classmethod
    def type(cls) -> str:
        return cls.__name__

    @classmethod
    def through_the_door(cls) -> bool:
        return Said.DOOR in cls.said_by

    def body(self) -> bytes:
        """Return the JSON that goes on the wire; fields that are None are left out."""
        return self.model_dump_json(exclude_none=True).encode()
