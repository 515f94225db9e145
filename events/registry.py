"""Every event type there is, by name, and the two ways to read one: history (tolerant) and the door (strict)."""

from itertools import chain

from events import budget, call, checkpoint, credential, hub, machine, project, timer
from events.base import Event


def _subclasses(module: object, base: type[Event]) -> list[type[Event]]:
    return [
        member
        for member in vars(module).values()
        if isinstance(member, type) and issubclass(member, base) and member is not base
    ]


EVENTS: dict[str, type[Event]] = {
    event.type(): event
    for event in chain(
        _subclasses(project, project.ProjectEvent),
        _subclasses(machine, machine.MachineEvent),
        _subclasses(checkpoint, checkpoint.CheckpointEvent),
        _subclasses(budget, budget.BudgetEvent),
        _subclasses(call, budget.BudgetEvent),
        _subclasses(credential, credential.CredentialEvent),
        _subclasses(hub, hub.HubEvent),
        (timer.TimerFired,),
    )
}

DOOR: dict[str, type[Event]] = {name: event for name, event in EVENTS.items() if event.through_the_door()}


class UnknownType(ValueError):
    """No event of this name in this version of the contract; history halts on it rather than skip it."""


def parse(type_name: str, body: bytes) -> Event:
    """Read an event of the log; fields that this version does not know are ignored.

    Raises:
        UnknownType: The type is not in `EVENTS`.
        pydantic.ValidationError: The body does not fit; cannot happen to what came through `append`.
    """
    event = EVENTS.get(type_name)
    if event is None:
        raise UnknownType(f"event type {type_name[:100]!r} is not known to this version")
    return event.model_validate_json(body)


def parse_at_door(type_name: str, body: bytes) -> Event:
    """Read an event from outside; unknown fields are refused.

    Raises:
        UnknownType: Not one of `DOOR`.
        pydantic.ValidationError: Says which field, which value, which limit.
    """
    event = DOOR.get(type_name)
    if event is None:
        raise UnknownType(f"event type {type_name[:100]!r} does not exist or may not come from outside")
    return event.model_validate_json(body, extra="forbid")
