"""AsyncAPI 3.0 of everything on the bus, from the point of view of the hub: what it hears, what it says."""

import inspect
import re
from collections.abc import Callable, Mapping
from typing import TypeAlias

from pydantic import BaseModel

from events.agent import COMMANDS, REPORTS
from events.base import Event
from events.records import DeadLetter, Problem, Rejected
from events.registry import DOOR, EVENTS

Json: TypeAlias = "str | int | float | bool | list[Json] | dict[str, Json] | None"
SchemaOf: TypeAlias = Callable[[type[BaseModel]], dict[str, Json]]

VERSION = "1.0.0"
"""Of the contract: the first number grows only when an old client would no longer be understood."""

_PARAMETERS: Mapping[str, str] = {
    "project": "Slug of the project, `[a-z0-9-]{1,63}`; `_hub` for what belongs to no project",
    "id": "Id of the aggregate: a UUID; of a project its slug, of a budget its account's node",
    "machine": "Id of the machine",
    "epoch": "Number of the incarnation, from 1",
    "service": "Service that could not handle it",
    "stream": "Stream that it was heard on",
    "seq": "Its sequence there",
    "aggregate": "Kind of aggregate",
    "type": "Event type",
}
_HEADERS: Mapping[str, str] = {
    "Nats-Msg-Id": "The event's id",
    "ce-specversion": "1.0",
    "ce-id": "The event's id: a UUIDv7, or a UUIDv5 of sender and client id for what came through the door",
    "ce-source": "autovibe/<project>",
    "ce-type": "The event type",
    "ce-time": "When it is said to have happened, RFC 3339; order is by sequence",
    "ce-schemaversion": "Version of the type's meaning",
    "ce-actor": "Who said it",
    "ce-causation": "Id of the event that it answers",
    "ce-correlation": "Id of the event that began the story",
    "ce-reason": "Why, in words",
}
_DOOR_HEADERS = ("Nats-Msg-Id", "ce-id", "ce-time", "ce-causation", "ce-correlation", "ce-reason")


def document(schema_of: SchemaOf) -> dict[str, Json]:
    """Return the document; events' bodies are referred to in schema/events."""
    made = _Document(schema_of)
    for name, event in sorted(EVENTS.items()):
        made.event(name, event)
    for name, report in REPORTS.items():
        made.report(name, report)
    for name, command in COMMANDS.items():
        made.command(name, command)
    made.rest()
    return made.json()


class _Document:
    def __init__(self, schema_of: SchemaOf) -> None:
        self._schema_of = schema_of
        self._channels: dict[str, Json] = {}
        self._operations: dict[str, Json] = {}
        self._messages: dict[str, Json] = {}

    def json(self) -> dict[str, Json]:
        return {
            "asyncapi": "3.0.0",
            "id": "urn:autovibe:bus",
            "info": {
                "title": "autovibe on NATS",
                "version": VERSION,
                "description": "Requests go to the door (in, ask); what happened is heard from the log (av).",
            },
            "defaultContentType": "application/json",
            "channels": self._channels,
            "operations": self._operations,
            "components": {
                "messages": self._messages,
                "messageTraits": {
                    "recorded": {"headers": _headers(tuple(_HEADERS), required=("ce-id", "ce-type", "ce-time"))},
                    "knock": {"headers": _headers(_DOOR_HEADERS)},
                },
            },
        }

    def event(self, name: str, event: type[Event]) -> None:
        text = _summary(event)
        self._messages[name] = {
            "name": name,
            "summary": text,
            "payload": {"$ref": f"./events/{name}.json"},
            "traits": [{"$ref": "#/components/messageTraits/recorded"}],
        }
        tokens = f"{{project}}.{event.aggregate}.{{id}}.{name}"
        self._channel(f"log.{name}", f"av.{tokens}", name)
        self._operation(f"say.{name}", "send", f"log.{name}", f"{text} Said by {', '.join(event.said_by)}.")
        if name in DOOR:
            self._messages[f"knock.{name}"] = {
                "name": name,
                "summary": text,
                "payload": {"$ref": f"./events/{name}.json"},
                "traits": [{"$ref": "#/components/messageTraits/knock"}],
            }
            self._channel(f"in.{name}", f"in.{tokens}", f"knock.{name}")
            self._channel(f"ask.{name}", f"ask.{tokens}", f"knock.{name}", "Accepted", "Problem")
            self._operation(f"accept.{name}", "receive", f"in.{name}", f"Asynchronous. {text}")
            self._operation(f"answer.{name}", "receive", f"ask.{name}", f"Request/reply. {text}", "Accepted", "Problem")

    def report(self, name: str, report: type[BaseModel]) -> None:
        found = re.search(r"To (spawner|checkpointer)", report.__doc__ or "")
        assert found, f"{name} does not say to which service"
        self._message(name, report)
        self._channel(f"from.{name}", f"from.{{project}}.{{machine}}.{{epoch}}.{found[1]}.{name}", name)
        self._operation(f"hear.{name}", "receive", f"from.{name}", _summary(report))

    def command(self, name: str, command: type[BaseModel]) -> None:
        self._message(name, command)
        self._channel(f"cmd.{name}", f"cmd.{{project}}.{{machine}}.{{epoch}}.{name}", name, "Answer")
        self._operation(f"command.{name}", "send", f"cmd.{name}", _summary(command), "Answer")

    def rest(self) -> None:
        self._message("Rejected", Rejected)
        self._message("DeadLetter", DeadLetter)
        self._message("Problem", Problem)
        self._plain("Accepted", "It is in the log, at this sequence", {"seq": {"type": "integer", "minimum": 1}})
        self._plain("Answer", "The report that answers a command, or nothing", {"report": {"type": "string"}})
        self._plain("Beat", "The incarnation lives; empty", {})
        lines: dict[str, Json] = {
            "n": {"type": "integer", "description": "Number of the line, from 1 in each epoch"},
            "s": {"type": "string", "enum": ["stdout", "stderr", "agent"]},
            "t": {"type": "string", "description": "Valid UTF-8, control characters escaped, at most 16384 bytes"},
            "at": {"type": "string", "format": "date-time"},
        }
        self._plain("Output", "A line of a machine's output; several may come as an array", lines)
        self._channel("rejected", "rejected.{project}.{aggregate}.{id}.{type}", "Rejected")
        self._operation("refuse", "send", "rejected", "What the door refused, and why")
        self._channel("dead", "dead.{service}.{stream}.{seq}", "DeadLetter")
        self._operation("bury", "send", "dead", "What a handler could not do after all attempts")
        self._channel("beat", "beat.{project}.{machine}.{epoch}", "Beat")
        self._operation("hear.beat", "receive", "beat", "Every 10 s")
        self._channel("out", "out.{project}.{machine}.{epoch}", "Output")
        self._operation("hear.output", "receive", "out", "What a machine prints")
        self._channel("live", "live.{project}.{machine}.{epoch}", "Output")
        self._operation("show.output", "send", "live", "The same, to those who watch")

    def _message(self, name: str, model: type[BaseModel]) -> None:
        payload = self._schema_of(model)
        self._messages[name] = {"name": name, "summary": _summary(model), "payload": _rooted(name, payload)}

    def _plain(self, name: str, summary: str, properties: dict[str, Json]) -> None:
        payload: dict[str, Json] = {"type": "object", "properties": properties}
        self._messages[name] = {"name": name, "summary": summary, "payload": payload}

    def _channel(self, name: str, address: str, *messages: str) -> None:
        parameters = re.findall(r"\{(\w+)\}", address)
        self._channels[name] = {
            "address": address,
            "parameters": {token: {"description": _PARAMETERS[token]} for token in parameters},
            "messages": {message: {"$ref": f"#/components/messages/{message}"} for message in messages},
        }

    def _operation(self, name: str, action: str, channel: str, summary: str, *replies: str) -> None:
        address = f"#/channels/{channel}"
        messages = [name for name in _names(self._channels[channel]) if name not in replies]
        operation: dict[str, Json] = {
            "action": action,
            "channel": {"$ref": address},
            "summary": summary,
            "messages": [{"$ref": f"{address}/messages/{message}"} for message in messages],
        }
        if replies:
            operation["reply"] = {
                "channel": {"$ref": address},
                "messages": [{"$ref": f"{address}/messages/{reply}"} for reply in replies],
            }
        self._operations[name] = operation


def _headers(names: tuple[str, ...], required: tuple[str, ...] = ()) -> dict[str, Json]:
    return {
        "type": "object",
        "properties": {name: {"type": "string", "description": _HEADERS[name]} for name in names},
        "required": list(required),
    }


def _names(channel: Json) -> list[str]:
    assert isinstance(channel, dict)
    messages = channel["messages"]
    assert isinstance(messages, dict)
    return list(messages)


def _rooted(name: str, schema: Json) -> Json:
    """Make a schema's own references hold inside the document."""
    match schema:
        case dict():
            return {key: _rooted(name, value) for key, value in schema.items()}
        case list():
            return [_rooted(name, value) for value in schema]
        case str() if schema.startswith("#/$defs/"):
            return schema.replace("#", f"#/components/messages/{name}/payload", 1)
        case _:
            return schema


def _summary(model: type[BaseModel]) -> str:
    return inspect.cleandoc(model.__doc__ or "").partition("\n\n")[0].replace("\n", " ")
