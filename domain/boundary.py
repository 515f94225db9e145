"""When a machine's model call waits until its work is captured: the call is the moment at which it is known to be quiet."""

from dataclasses import dataclass, replace

from events.project import CheckpointPolicy

IDS_MAX = 256
"""So many tool calls' results are waited for in the transcript; more say nothing more."""


@dataclass(frozen=True, slots=True)
class Since:
    """What one incarnation's calls were since its last checkpoint; `Since()` is one that has made none."""

    calls: int = 0
    at_s: float | None = None
    """When that checkpoint was taken, by the hub's monotonic clock; None: before its first call."""

    def called(self, now_s: float) -> "Since":
        return Since(self.calls + 1, now_s if self.at_s is None else self.at_s)

    def captured(self, now_s: float) -> "Since":
        return replace(self, calls=0, at_s=now_s)


@dataclass(frozen=True, slots=True)
class Want:
    """A capture that is to come before something goes on."""

    only_changes: bool
    """Where no file has changed, the last checkpoint will do."""
    before_risk: bool = False
    transcript_has: tuple[str, ...] = ()
    """Tool calls whose results the conversation is to hold first."""

    def joined(self, other: "Want") -> "Want":
        """One capture that does for both."""
        return Want(
            self.only_changes and other.only_changes,
            self.before_risk or other.before_risk,
            tuple(dict.fromkeys(self.transcript_has + other.transcript_has))[:IDS_MAX],
        )


BEFORE_RISK = Want(only_changes=True, before_risk=True)


def between_calls(policy: CheckpointPolicy, since: Since, now_s: float) -> Want | None:
    """Return the capture that the next call waits for; None: it goes on.

    The first call of an incarnation waits for nothing: it stands where it started from. Of the later ones each waits for
    a checkpoint of what changed in files, and at the latest after `calls_max` calls or `interval_s` for one of the
    conversation too.
    """
    if policy.between_calls == "never" or since.at_s is None:
        return None
    is_due = since.calls >= policy.calls_max or now_s - since.at_s >= policy.interval_s
    return Want(only_changes=policy.between_calls == "changed" and not is_due)
