"""JetStream topology as code: every stream and durable consumer there is, and what may never differ from it.

Pure data. `services.kit.topology` creates what is missing, reads everything back and refuses what has drifted: the
server clears some flags silently, and an update by another tool resets every field it does not name.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

Json: TypeAlias = "str | int | float | bool | Sequence[Json] | Mapping[str, Json] | None"

NANOSECONDS = 1_000_000_000
MIB = 1024 * 1024

LOG = "LOG"
IN = "IN"
TIMERS = "TIMERS"
OUTPUT = "OUTPUT"
REJECTED = "REJECTED"
DEAD = "DEAD"

TIMER_FILTER = "av._hub.timer.*.TimerFired"


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """How much each stream may hold; together below the server's `max_file_store`, which reserves them.

    A full LOG refuses at once and says so; a full disk wedges the server until it is restarted.
    """

    log_bytes: int = 4096 * MIB
    in_bytes: int = 256 * MIB
    timers_bytes: int = 64 * MIB
    output_bytes: int = 512 * MIB
    rejected_bytes: int = 64 * MIB
    dead_bytes: int = 64 * MIB
    message_bytes: int = 1024 * 1024
    """The largest message of any stream, headers included; the door refuses bodies well below it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """Another stream that this one copies from, with its subjects rewritten."""

    stream: str
    subject: str
    becomes: str

    def config(self) -> Json:
        return {"name": self.stream, "subject_transforms": [{"src": self.subject, "dest": self.becomes}]}


@dataclass(frozen=True, slots=True, kw_only=True)
class Republish:
    """Where stored messages are published again, with their sequence in `Nats-Sequence`."""

    subject: str
    becomes: str

    def config(self) -> Json:
        return {"src": self.subject, "dest": self.becomes}


@dataclass(frozen=True, slots=True, kw_only=True)
class Durable:
    """A durable pull consumer, shared by all instances of a service.

    `max_deliver` is unlimited: `services.kit.reactor` counts attempts and buries, the server would only go silent.
    """

    name: str
    filters: tuple[str, ...]
    ack_wait_s: int = 30
    ack_pending_max: int = 10_000
    """Delayed messages count too, so this is how many may wait for `Later`."""

    def config(self) -> dict[str, Json]:
        config: dict[str, Json] = {
            "name": self.name,
            "durable_name": self.name,
            "deliver_policy": "all",
            "ack_policy": "explicit",
            "ack_wait": self.ack_wait_s * NANOSECONDS,
            "max_deliver": -1,
            "max_ack_pending": self.ack_pending_max,
            "max_waiting": 512,
            "replay_policy": "instant",
        }
        if len(self.filters) == 1:
            return {**config, "filter_subject": self.filters[0]}
        return {**config, "filter_subjects": list(self.filters)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Stream:
    """One stream; what is not said here is off."""

    name: str
    description: str
    subjects: tuple[str, ...]
    bytes_max: int
    message_bytes_max: int
    retention: Literal["limits", "workqueue"] = "limits"
    discard: Literal["old", "new"] = "new"
    age_max_s: int = 0
    """0: for ever."""
    duplicate_window_ms: int = 120_000
    compression: Literal["none", "s2"] = "none"
    consumers_max: int = 1_000
    """Explicit because the server's meaning of -1 changed to 1000 in 2.15."""
    replicas: int = 1
    deny_delete: bool = False
    deny_purge: bool = False
    allow_atomic: bool = False
    allow_msg_schedules: bool = False
    allow_msg_ttl: bool = False
    allow_rollup_hdrs: bool = False
    persist_async: bool = False
    """Acknowledged before it is on disk; voids the server's `sync_interval: always`."""
    republish: Republish | None = None
    sources: tuple[Source, ...] = ()
    durables: tuple[Durable, ...] = field(default=())

    def config(self) -> dict[str, Json]:
        """Return the configuration as the JetStream API spells it; every field that is not named here must be off."""
        config: dict[str, Json] = {
            "name": self.name,
            "description": self.description,
            "subjects": list(self.subjects),
            "retention": self.retention,
            "discard": self.discard,
            "storage": "file",
            "num_replicas": self.replicas,
            "max_consumers": self.consumers_max,
            "max_msgs": -1,
            "max_msgs_per_subject": -1,
            "max_bytes": self.bytes_max,
            "max_msg_size": self.message_bytes_max,
            "max_age": self.age_max_s * NANOSECONDS,
            "duplicate_window": self.duplicate_window_ms * NANOSECONDS // 1000,
            "compression": self.compression,
            "allow_direct": True,
            "deny_delete": self.deny_delete,
            "deny_purge": self.deny_purge,
            "allow_atomic": self.allow_atomic,
            "allow_msg_schedules": self.allow_msg_schedules,
            "allow_msg_ttl": self.allow_msg_ttl,
            "allow_rollup_hdrs": self.allow_rollup_hdrs,
        }
        if self.persist_async:
            config["persist_mode"] = "async"
        if self.republish:
            config["republish"] = self.republish.config()
        if self.sources:
            config["sources"] = [source.config() for source in self.sources]
        return config


def _of(aggregate: str, *types: str) -> tuple[str, ...]:
    return tuple(f"av.*.{aggregate}.*.{name}" for name in types)


BUDGET = Durable(
    name="budget",
    filters=(
        *_of("machine", "MachineRequested", "MachineStopRequested", "MachineEnded", "MachineParked"),
        *_of("budget", "BudgetRequested", "BudgetTopUpRequested"),
        TIMER_FILTER,
    ),
)
ISSUER = Durable(name="issuer", filters=_of("project", "ProjectCreated"))
INTAKE = Durable(name="intake", filters=("in.>",))
SPAWNER_REPORTS = Durable(name="spawner-reports", filters=("from.*.*.*.spawner.>",))
CHECKPOINTER_REPORTS = Durable(name="checkpointer-reports", filters=("from.*.*.*.checkpointer.>",))


def streams(sizes: Sizes | None = None, replicas: int = 1) -> tuple[Stream, ...]:
    """Return every stream, in the order in which they must be created (TIMERS before LOG, which copies from it)."""
    sizes = sizes or Sizes()
    largest = sizes.message_bytes
    return (
        Stream(
            name=TIMERS,
            description="Deadlines: schedules that the server fires; the fired ones are copied into LOG",
            subjects=("avt.sched.>", "avt.fire.>", "avt.cancel.>"),
            bytes_max=sizes.timers_bytes,
            message_bytes_max=largest,
            replicas=replicas,
            discard="old",  # the server refuses schedules with discard new; owners derive their timers anew at start
            allow_msg_schedules=True,
            allow_msg_ttl=True,
            allow_rollup_hdrs=True,  # the server turns it on with schedules, unasked
        ),
        Stream(
            name=LOG,
            description="The log: every event, for ever",
            subjects=("av.>",),
            bytes_max=sizes.log_bytes,
            message_bytes_max=largest,
            replicas=replicas,
            compression="s2",
            consumers_max=5_000,
            deny_delete=True,
            deny_purge=True,
            allow_atomic=True,
            republish=Republish(subject="av.>", becomes="log.>"),
            sources=(Source(stream=TIMERS, subject="avt.fire.>", becomes="av._hub.timer.>"),),
            durables=(BUDGET, ISSUER),
        ),
        Stream(
            name=IN,
            description="The door: what clients ask and agents report, until it is taken",
            subjects=("in.>", "from.>"),
            bytes_max=sizes.in_bytes,
            message_bytes_max=largest,
            replicas=replicas,
            retention="workqueue",
            age_max_s=86_400,
            duplicate_window_ms=100,  # as short as it goes: it is shared by all senders
            durables=(INTAKE, SPAWNER_REPORTS, CHECKPOINTER_REPORTS),
        ),
        Stream(
            name=OUTPUT,
            description="Live output of machines; no ledger",
            subjects=("out.>",),
            bytes_max=sizes.output_bytes,
            message_bytes_max=largest,
            discard="old",
            age_max_s=7 * 86_400,
            duplicate_window_ms=100,
            compression="s2",
            persist_async=True,
            republish=Republish(subject="out.>", becomes="live.>"),
        ),
        Stream(
            name=REJECTED,
            description="What the door refused, and why",
            subjects=("rejected.>",),
            bytes_max=sizes.rejected_bytes,
            message_bytes_max=largest,
            replicas=replicas,
            discard="old",
            age_max_s=7 * 86_400,
        ),
        Stream(
            name=DEAD,
            description="What a handler could not do after all attempts; a full one refuses, so nothing is lost",
            subjects=("dead.>",),
            bytes_max=sizes.dead_bytes,
            message_bytes_max=2 * largest,  # the letter carries the message that it is about
            replicas=replicas,
        ),
    )
