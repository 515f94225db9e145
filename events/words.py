"""The vocabularies of the reporting contract: the only words these columns and fields ever hold."""

from enum import StrEnum


class MachineType(StrEnum):
    CLAUDE_CODE = "claude_code"
    AIDER = "aider"
    QWEN_CODER = "qwen_coder"
    HUB = "hub"
    CLAUDE_API = "claude_api"
    SHELL = "shell"


class Phase(StrEnum):
    """Where a machine is in its life; each has a deadline (docs: the life of a machine)."""

    REQUESTED = "requested"
    QUEUED = "queued"
    PROVISIONING = "provisioning"
    STARTING = "starting"
    READY = "ready"
    WORKING = "working"
    CHECKPOINTING = "checkpointing"
    DRAINING = "draining"
    SEALING = "sealing"
    PARKED = "parked"
    UNREACHABLE = "unreachable"
    RECOVERING = "recovering"
    QUARANTINED = "quarantined"
    ENDING = "ending"
    ENDED = "ended"


class MachineStatus(StrEnum):
    SPAWNING = "spawning"
    ACTIVE = "active"
    WORKING = "working"
    CHECKPOINTING = "checkpointing"
    PARKED = "parked"
    TERMINATED = "terminated"


STATUS_OF_PHASE: dict[Phase, MachineStatus] = {
    Phase.REQUESTED: MachineStatus.SPAWNING,
    Phase.QUEUED: MachineStatus.SPAWNING,
    Phase.PROVISIONING: MachineStatus.SPAWNING,
    Phase.STARTING: MachineStatus.SPAWNING,
    Phase.READY: MachineStatus.ACTIVE,
    Phase.WORKING: MachineStatus.WORKING,
    Phase.CHECKPOINTING: MachineStatus.CHECKPOINTING,
    Phase.DRAINING: MachineStatus.WORKING,
    Phase.SEALING: MachineStatus.CHECKPOINTING,
    Phase.PARKED: MachineStatus.PARKED,
    Phase.UNREACHABLE: MachineStatus.WORKING,
    Phase.RECOVERING: MachineStatus.SPAWNING,
    Phase.QUARANTINED: MachineStatus.PARKED,
    Phase.ENDING: MachineStatus.TERMINATED,
    Phase.ENDED: MachineStatus.TERMINATED,
}


class Outcome(StrEnum):
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"
    EXPIRED = "expired"
    DENIED = "denied"
    LOST = "lost"
    SUPERSEDED = "superseded"


class Hold(StrEnum):
    """Why a machine that is meant to run does not."""

    USER = "user"
    BUDGET = "budget"
    RATE_LIMIT = "rate_limit"
    APPROVAL = "approval"
    SCHEDULE = "schedule"
    CAPACITY = "capacity"
    MAINTENANCE = "maintenance"


class ProjectStatus(StrEnum):
    ACTIVE = "active"
    PAUSED = "paused"
    ARCHIVED = "archived"


class CheckpointType(StrEnum):
    GENESIS = "genesis"
    AUTOMATIC = "automatic"
    MANUAL = "manual"
    FINAL = "final"
    HUB_DAILY = "hub_daily"
    PARKING = "parking"
    SAFETY = "safety"


class CreationContext(StrEnum):
    """Where in the run a checkpoint was taken."""

    INITIAL_STATE = "initial_state"
    MID_EXECUTION = "mid_execution"
    FINAL_STATE = "final_state"
    BETWEEN_CALLS = "between_calls"
    BEFORE_RISK = "before_risk"
    TIMER = "timer"
    REQUESTED = "requested"


class VerificationStatus(StrEnum):
    PENDING = "pending"
    VERIFIED = "verified"
    CORRUPT = "corrupt"


class Resource(StrEnum):
    MONEY = "money"
    TIME = "time"
    API_CALLS = "api_calls"
    TOKENS = "tokens"
    CPU = "cpu"
    MEMORY = "memory"
    STORAGE = "storage"
    NETWORK = "network"


class Unit(StrEnum):
    CAD = "CAD"
    USD = "USD"
    MINUTES = "minutes"
    HOURS = "hours"
    CALLS = "calls"
    TOKENS = "tokens"
    GB = "gb"
    GB_HOURS = "gb_hours"
    CPU_HOURS = "cpu_hours"


class BudgetPeriod(StrEnum):
    DAILY = "daily"
    WEEKLY = "weekly"
    MONTHLY = "monthly"
    TOTAL = "total"


class CarryOver(StrEnum):
    """What of a period's balance the next one begins with."""

    NONE = "none"
    UNUSED = "unused"
    DEBT = "debt"


class OnExhausted(StrEnum):
    """What becomes of a machine's model call that use, not reservations, stands in the way of."""

    HOLD = "hold"
    """It waits for a top-up for as long as its client lets it, then the machine parks."""
    REFUSE = "refuse"
    """The call is refused and the agent ends as it ends; nothing parks."""
    PARK = "park"
    """The call is refused and the machine parks at once."""


class HoldMode(StrEnum):
    """What is set aside when the worst case of a model call is more than there is."""

    STRICT = "strict"
    """The whole worst case, or nothing."""
    CLAMPED = "clamped"
    """`max_tokens` is lowered to what can be afforded, not below what the call needs at least."""
    ELASTIC = "elastic"
    """As much of the worst case as there is, within a bound; what goes beyond it is reported as overrun."""


class BudgetScope(StrEnum):
    HUB = "hub"
    PROJECT = "project"
    MACHINE = "machine"


class HubType(StrEnum):
    PRIMARY = "primary"
    DEVELOPMENT = "development"
    EXPERIMENTAL = "experimental"
    DOMAIN_SPECIFIC = "domain_specific"


class Role(StrEnum):
    """What a credential lets its holder do; operator and admin may also write."""

    VIEWER = "viewer"
    OPERATOR = "operator"
    ADMIN = "admin"


class Said(StrEnum):
    """Who may say an event; DOOR is everybody outside, through the intake."""

    DOOR = "intake"
    BUDGET = "budget"
    SPAWNER = "spawner"
    CHECKPOINTER = "checkpointer"
    GATEWAY = "gateway"
    ISSUER = "issuer"
    HUB = "hub"
    TIMERS = "timers"
