"""reference/streams.md: what `schema/streams.py` says."""

from docs.generators.markdown import code, page, table
from schema.streams import MIB, Durable, Stream, streams

_INTRODUCTION = """
`autovibe migrate` (and every start of `autovibe dev`) creates what is missing and compares every field with what the
server has; a difference stops it, and the message names both values. Streams live in the account HUB; only services
reach them. What a client may use are the [subjects](#subjects).
"""

SUBJECTS: tuple[tuple[str, str, str], ...] = (
    ("in.<project>.<aggregate>.<id>.<Type>", "client → door", "Asks for something; JetStream publish, so that it is kept."),
    ("ask.<project>.<aggregate>.<id>.<Type>", "client → door", "The same as a request; the answer is `seq` or the refusal."),
    ("av.<project>.<aggregate>.<id>.<Type>", "hub → client", "Every event, once it is in the log; `Nats-Sequence` is its place."),
    ("rejected.<project>.<aggregate>.<id>.<Type>", "hub → client", "What the door refused of what was published, and why."),
    ("live.<project>.<machine>.<epoch>", "hub → client", "What a machine prints, as it comes."),
    ("$SRV.>", "client ↔ hub", "Discovery: the door is the NATS micro service `autovibe-intake`."),
    ("from.<project>.<machine>.<epoch>.<service>.<Report>", "agent → service", "What an agent reports, for the named service."),
    ("out.<project>.<machine>.<epoch>", "agent → hub", "A machine's output."),
    ("beat.<project>.<machine>.<epoch>", "agent → spawner", "Sign of life; core NATS, kept nowhere."),
    ("cmd.<project>.<machine>.<epoch>.<Command>", "spawner, checkpointer → agent", "Stop, capture: request and answer."),
    ("log.<project>.<aggregate>.<id>.<Type>", "inside HUB", "The log republished; a project's account sees it as `av.`."),
    ("avt.sched.>, avt.fire.>, avt.cancel.>", "inside HUB", "Timers: set, fired, taken back."),
    ("dead.>", "inside HUB", "Dead letters."),
)  # fmt: skip


def text() -> str:
    found = streams()
    return page(
        "Streams",
        "`schema/streams.py`",
        _INTRODUCTION,
        table(("stream", "what", "holds at most", "for how long", "when full"), (_row(one) for one in found)),
        *(_section(one) for one in found),
        "## Subjects",
        "A project's credentials reach their own project's part of these only.",
        table(("subject", "who to whom", "what"), ((code(one), two, three) for one, two, three in SUBJECTS)),
    )


def _row(one: Stream) -> tuple[str, ...]:
    full = "refuses new ones" if one.discard == "new" else "drops the oldest"
    return f"[{one.name}](#{one.name.lower()})", one.description, _size(one.bytes_max), _age(one.age_max_s), full


def _section(one: Stream) -> str:
    facts = [
        ("subjects", ", ".join(code(subject) for subject in one.subjects)),
        ("retention", {"limits": "until a limit", "workqueue": "until one reader has taken it"}[one.retention]),
        ("largest message", _size(one.message_bytes_max)),
        ("duplicates are recognised for", f"{one.duplicate_window_ms / 1000:g} s"),
        ("compression", one.compression),
        ("deleting and purging", "refused by the server" if one.deny_delete and one.deny_purge else "possible"),
        ("acknowledged", "before it is on disk" if one.persist_async else "when it is on disk (`sync_interval: always`)"),
    ]  # fmt: skip
    if one.allow_atomic:
        facts.append(("atomic batches", "yes"))
    if one.allow_msg_schedules:
        facts.append(("schedules", "yes, fired by the server"))
    if one.republish:
        facts.append(("republished", f"`{one.republish.subject}` as `{one.republish.becomes}`"))
    facts += [("copies from", f"{it.stream}: `{it.subject}` as `{it.becomes}`") for it in one.sources]
    parts = [f"## {one.name}", f"{one.description}.", table(("", ""), facts)]
    if one.durables:
        header = ("durable consumer", "reads", "acknowledged within", "in flight at most")
        parts.append(table(header, (_durable(durable) for durable in one.durables)))
    return "\n\n".join(parts)


def _durable(one: Durable) -> tuple[str, ...]:
    return one.name, ", ".join(code(text) for text in one.filters), f"{one.ack_wait_s} s", str(one.ack_pending_max)


def _size(size_bytes: int) -> str:
    return f"{size_bytes // MIB} MiB"


def _age(age_s: int) -> str:
    if not age_s:
        return "for ever"
    days = age_s // 86_400
    return f"{days} day" + ("s" if days > 1 else "")
