"""reference/phases.md: the phases of a machine, their deadlines and what leads there."""

from docs.generators.markdown import code, page, table
from domain.phases import BEATS_MISSED_S, DEADLINES, GOAL_SLACK_S, LIVE, PROGRESS_S, QUEUE_S, RECOVERIES_MAX, STABLE_S
from events.machine import MachineEvent
from events.registry import EVENTS
from events.words import STATUS_OF_PHASE, Hold, Outcome, Phase

_INTRODUCTION = """
`phase` is the precise word, `status` the coarse one of the reporting tables. A phase that lasts longer than its
deadline is over: what follows is decided anew, from what the log says then. How it reads as a story:
[the life of a machine](../explanation/life-of-a-machine.md).
"""


def text() -> str:
    return page(
        "Phases of a machine",
        "`domain/phases.py` and `events/`",
        _INTRODUCTION,
        table(
            ("phase", "waits for", "at most", "then", "status", "incarnation on a host", "entered by"),
            (_row(phase) for phase in Phase),
        ),
        f"""
Beside the deadlines:

- The agent keeps the goal's deadline itself. The spawner steps in {GOAL_SLACK_S} s later.
- No heartbeat for {BEATS_MISSED_S:g} s: contact is lost.
- A host that cannot be reached for one incarnation for {PROGRESS_S} s: the next incarnation is tried.
- At most {RECOVERIES_MAX} recoveries, each may go a checkpoint further back; then the machine ends as lost. An
  incarnation that worked for {STABLE_S} s starts the count anew.
- `requested` and `queued` together last at most {_time(QUEUE_S)}.
""",
        "## Outcomes",
        ", ".join(code(word) for word in Outcome),
        "## Holds",
        "Why a machine that is meant to run does not: " + ", ".join(code(word) for word in Hold) + ".",
    )


def _row(phase: Phase) -> tuple[str, ...]:
    by = ", ".join(
        f"[{name}](events.md#{name.lower()})"
        for name, event in EVENTS.items()
        if issubclass(event, MachineEvent) and event.phase is phase
    )
    status = STATUS_OF_PHASE[phase].value
    there = "yes" if phase in LIVE else ""
    if phase not in DEADLINES:
        return code(phase), "", "", "", status, there, by
    deadline = DEADLINES[phase]
    limit = _time(deadline.seconds) if deadline.seconds else "the goal's deadline"
    return code(phase), deadline.waits_for, limit, code(deadline.then), status, there, by


def _time(seconds: int) -> str:
    for unit, size in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= size and not seconds % size:
            return f"{seconds // size} {unit}"
    return f"{seconds} s"
