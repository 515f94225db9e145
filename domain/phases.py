"""The phases of a machine's life as data: what each waits for, for how long, and what comes when it does not come.

`budget` answers for a machine until it is admitted, the spawner from then on. A deadline commands nothing: when it
comes, `domain.machine.decide` looks at the machine as it is then, so a timer that lost a race does nothing.
"""

from dataclasses import dataclass

from events.words import Phase

HOUR_S = 3_600
DAY_S = 24 * HOUR_S

QUEUE_S = DAY_S
"""How long a machine may wait to be admitted, requested and queued together."""
GOAL_SLACK_S = 5
"""The agent keeps the goal's deadline itself and says `expired`; the spawner steps in this much later."""
BEATS_MISSED_S = 30.0
"""Three heartbeats of 10 s missed: contact is lost."""
PROGRESS_S = 120
"""How long the host may go on being unreachable for one incarnation before the next is tried."""
STABLE_S = 600
"""An incarnation that worked this long and is lost then starts the count of recovery attempts anew."""
RECOVERIES_MAX = 3


@dataclass(frozen=True, slots=True)
class Deadline:
    """How long a phase may last from when it began, and the phase that follows when it lasted too long."""

    seconds: int | None
    """None: the machine's own limit, `Limits.deadline_s` from the first WorkStarted on."""
    then: Phase
    waits_for: str


DEADLINES: dict[Phase, Deadline] = {
    Phase.REQUESTED: Deadline(10, Phase.QUEUED, "budget to admit, queue or deny"),
    Phase.QUEUED: Deadline(QUEUE_S, Phase.ENDED, "room in the budgets"),
    Phase.PROVISIONING: Deadline(1_800, Phase.RECOVERING, "the host to make the incarnation"),
    Phase.STARTING: Deadline(120, Phase.RECOVERING, "the agent to register and restore"),
    Phase.READY: Deadline(900, Phase.DRAINING, "the runner to start"),
    Phase.WORKING: Deadline(None, Phase.DRAINING, "the runner to finish"),
    Phase.CHECKPOINTING: Deadline(60, Phase.WORKING, "the safety checkpoint"),
    Phase.DRAINING: Deadline(60, Phase.SEALING, "the agent to stop the runner and seal"),
    Phase.SEALING: Deadline(300, Phase.ENDING, "the final checkpoint"),
    Phase.PARKED: Deadline(30 * DAY_S, Phase.ENDING, "its holds to go"),
    Phase.UNREACHABLE: Deadline(90, Phase.RECOVERING, "a sign of life"),
    Phase.RECOVERING: Deadline(1_800, Phase.ENDING, "the lost incarnation to be fenced"),
    Phase.QUARANTINED: Deadline(7 * DAY_S, Phase.ENDING, "a human"),
    Phase.ENDING: Deadline(300, Phase.ENDED, "the host to take the incarnation down"),
}
"""Every phase but `ended`, which has no way out."""

BEFORE_ADMISSION = frozenset({Phase.REQUESTED, Phase.QUEUED})

LIVE = frozenset(
    {
        Phase.PROVISIONING,
        Phase.STARTING,
        Phase.READY,
        Phase.WORKING,
        Phase.CHECKPOINTING,
        Phase.DRAINING,
        Phase.SEALING,
        Phase.UNREACHABLE,
    }
)
"""An incarnation of the machine's epoch is wanted on a host; in every other phase it must not be there."""
