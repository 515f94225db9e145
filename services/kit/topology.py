"""Applies `schema.streams` to a server and compares, field by field, what the server made of it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import cast

from schema.streams import Durable, Json, Sizes, Stream, streams
from services.kit.bus import Bus
from services.kit.errors import Refused
from services.kit.wire import ApiError, mapping

_NOT_FOUND = {10059, 10014}
_STORAGE = {10047, 10023}
_IGNORED = {"metadata", "mirror_direct", "consumer_limits", "placement", "first_seq"}
"""What the server adds and what changes no promise."""
_HARMLESS = {"description", "max_bytes", "max_age", "max_msg_size", "max_consumers", "duplicate_window"}
"""What `apply` may change on a live stream, never to less than it holds."""
_CONSUMER_HARMLESS = {"filter_subject", "filter_subjects", "ack_wait", "max_ack_pending", "max_deliver", "description"}


@dataclass(frozen=True, slots=True)
class Difference:
    """One field that is not what the code says."""

    where: str
    field: str
    wanted: object
    found: object

    def __str__(self) -> str:
        return f"{self.where}: {self.field} should be {self.wanted!r}, is {self.found!r}"


class Drifted(Refused):
    """The server's streams are not those of `schema/streams.py`; what depends on them must not run."""

    def __init__(self, differences: Sequence[Difference]) -> None:
        lines = "\n  ".join(str(difference) for difference in differences)
        super().__init__(
            f"the JetStream topology has drifted:\n  {lines}\n"
            "`autovibe migrate` creates what is missing and makes harmless changes; "
            "the rest must be set back by hand (`nats stream edit`)"
        )
        self.differences = tuple(differences)


class Unsafe(Refused):
    """The server acknowledges before data is on disk; what is called durable would not be."""


async def apply(bus: Bus, sizes: Sizes | None = None, replicas: int = 1) -> list[str]:
    """Create what is missing, make harmless changes, then `check`. Returns what was done, a line each.

    Raises:
        Drifted: Something differs that must not be changed silently; nothing of that stream was touched.
        Refused: The server has too little storage for the sizes.
    """
    wanted = streams(sizes, replicas)
    done: list[str] = []
    for stream in wanted:
        done += await _apply_stream(bus, stream)
        for durable in stream.durables:
            done += await _apply_durable(bus, stream.name, durable)
    await check(bus, sizes, replicas)
    return done


async def check(bus: Bus, sizes: Sizes | None = None, replicas: int = 1) -> None:
    """Read everything back and compare every field.

    Raises:
        Drifted: With all differences.
    """
    differences: list[Difference] = []
    for stream in streams(sizes, replicas):
        found = await _stream_config(bus, stream.name)
        differences += compare(stream.name, stream.config(), found)
        if found is None:
            continue
        for durable in stream.durables:
            where = f"{stream.name}/{durable.name}"
            differences += compare(where, durable.config(), await _consumer_config(bus, stream.name, durable.name))
    if differences:
        raise Drifted(differences)


def compare(where: str, wanted: Mapping[str, Json], found: Mapping[str, object] | None) -> list[Difference]:
    """Return how a found configuration differs; what is on and was not asked for counts too."""
    if found is None:
        return [Difference(where, "it", "there", "missing")]
    differences = [
        Difference(where, name, value, found.get(name))
        for name, value in wanted.items()
        if _plain(found.get(name)) != _plain(value)
    ]
    return differences + [
        Difference(where, name, None, value)
        for name, value in found.items()
        if name not in wanted and name not in _IGNORED and _plain(value) not in (None, 0, -1)
    ]


def _plain(value: object) -> object:
    """Make what means the same equal: the server leaves out what is off."""
    if value in (None, False, "", 0) or value in ([], {}):
        return None
    if isinstance(value, Mapping):
        inner = cast("Mapping[str, object]", value)
        return {key: _plain(each) for key, each in inner.items() if _plain(each) is not None}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in cast("Sequence[object]", value)]
    return value


async def _stream_config(bus: Bus, name: str) -> Mapping[str, object] | None:
    try:
        return mapping((await bus.wire.api(f"STREAM.INFO.{name}"))["config"])
    except ApiError as error:
        if error.err_code in _NOT_FOUND:
            return None
        raise


async def _consumer_config(bus: Bus, stream: str, name: str) -> Mapping[str, object] | None:
    try:
        return mapping((await bus.wire.api(f"CONSUMER.INFO.{stream}.{name}"))["config"])
    except ApiError as error:
        if error.err_code in _NOT_FOUND:
            return None
        raise


async def _apply_stream(bus: Bus, stream: Stream) -> list[str]:
    wanted = stream.config()
    found = await _stream_config(bus, stream.name)
    if found is None:
        await _ask(bus, f"STREAM.CREATE.{stream.name}", wanted, f"create stream {stream.name}")
        return [f"created stream {stream.name}"]
    differences = compare(stream.name, wanted, found)
    if not differences:
        return []
    held = mapping((await bus.wire.api(f"STREAM.INFO.{stream.name}"))["state"])["bytes"]
    if any(difference.field not in _HARMLESS for difference in differences) or stream.bytes_max < int(str(held)):
        raise Drifted(differences)
    await _ask(bus, f"STREAM.UPDATE.{stream.name}", wanted, f"update stream {stream.name}")
    return [f"changed {difference}" for difference in differences]


async def _apply_durable(bus: Bus, stream: str, durable: Durable) -> list[str]:
    wanted = durable.config()
    found = await _consumer_config(bus, stream, durable.name)
    differences = compare(f"{stream}/{durable.name}", wanted, found)
    if not differences:
        return []
    if found is not None and any(difference.field not in _CONSUMER_HARMLESS for difference in differences):
        raise Drifted(differences)
    action = "create" if found is None else "update"
    body: dict[str, Json] = {"stream_name": stream, "config": wanted, "action": action}
    await _ask(bus, f"CONSUMER.CREATE.{stream}.{durable.name}", body, f"{action} consumer {durable.name} of {stream}")
    if found is None:
        return [f"created consumer {durable.name} of {stream}"]
    return [f"changed {difference}" for difference in differences]


async def _ask(bus: Bus, subject: str, body: Json, what: str) -> None:
    try:
        await bus.wire.api(subject, body)
    except ApiError as error:
        remedy = ""
        if error.err_code in _STORAGE:
            remedy = "; lower AUTOVIBE_LOG_BYTES and its like, or raise the server's max_file_store"
        raise Refused(f"could not {what}: {error}{remedy}") from error
