"""Subjects: the one place that knows how an address is spelled on the bus.

av.<project>.<aggregate>.<id>.<Type>      the log (only our services write it)
in.<project>.<aggregate>.<id>.<Type>      the door, asynchronous
ask.<project>.<aggregate>.<id>.<Type>     the door, request/reply
from.<project>.<machine>.<epoch>.<service>.<Report>   what an agent says, to the service that owns the fact
cmd.<project>.<machine>.<epoch>.<Command> what an agent is told (core NATS, request/reply)
beat.<project>.<machine>.<epoch>          heartbeats (core NATS)
out.<project>.<machine>.<epoch>           live output, towards the hub;  live.<project>.<machine>.<epoch> back to watchers
"""

import re
from dataclasses import dataclass

LOG_PREFIX = "av"
_TOKEN = re.compile(r"[A-Za-z0-9_-]{1,128}")


class BadSubject(ValueError):
    """The subject is not `<prefix>.<project>.<aggregate>.<id>.<Type>` with plain tokens."""


@dataclass(frozen=True, slots=True)
class Address:
    """One aggregate: a stream of events of its own inside the log."""

    project: str
    aggregate: str
    id: str

    def subject(self, type_name: str, prefix: str = LOG_PREFIX) -> str:
        return f"{prefix}.{self.project}.{self.aggregate}.{self.id}.{type_name}"

    def filter(self, prefix: str = LOG_PREFIX) -> str:
        """The subject filter of all this aggregate's events; the id stands before the wildcard (0.3 ms, not 13 ms)."""
        return f"{prefix}.{self.project}.{self.aggregate}.{self.id}.>"

    def __str__(self) -> str:
        return f"{self.project}/{self.aggregate}/{self.id}"


def parse(subject: str, prefix: str = LOG_PREFIX) -> tuple[Address, str]:
    """Return the aggregate and the event type that a subject names.

    Raises:
        BadSubject: Wrong prefix, wrong number of tokens or a token with odd characters.
    """
    tokens = subject.split(".")
    if len(tokens) != 5 or tokens[0] != prefix:
        raise BadSubject(f"subject {subject[:200]!r} is not {prefix}.<project>.<aggregate>.<id>.<Type>")
    odd = [token for token in tokens if not _TOKEN.fullmatch(token)]
    if odd:
        raise BadSubject(
            f"subject {subject[:200]!r} has a token of other than letters, digits, '-' and '_': {odd[0][:80]!r}"
        )
    return Address(tokens[1], tokens[2], tokens[3]), tokens[4]


def is_token(text: str) -> bool:
    """Whether the text may stand between two dots of a subject."""
    return _TOKEN.fullmatch(text) is not None


def project(slug: str) -> Address:
    return Address(slug, "project", slug)


def machine(slug: str, machine_id: object) -> Address:
    return Address(slug, "machine", str(machine_id))


def checkpoint(slug: str, checkpoint_id: object) -> Address:
    return Address(slug, "checkpoint", str(checkpoint_id))


def budget(slug: str, node: object) -> Address:
    """A budget account's node: `_hub` of `_hub`, the slug, or a machine's id."""
    return Address(slug, "budget", str(node))


def credential(slug: str, credential_id: object) -> Address:
    return Address(slug, "credential", str(credential_id))


def report(slug: str, machine_id: object, epoch: int, service: str, report_type: str) -> str:
    return f"from.{slug}.{machine_id}.{epoch}.{service}.{report_type}"


def command(slug: str, machine_id: object, epoch: int, command_type: str) -> str:
    return f"cmd.{slug}.{machine_id}.{epoch}.{command_type}"


def beat(slug: str, machine_id: object, epoch: int) -> str:
    return f"beat.{slug}.{machine_id}.{epoch}"


def output(slug: str, machine_id: object, epoch: int) -> str:
    return f"out.{slug}.{machine_id}.{epoch}"
