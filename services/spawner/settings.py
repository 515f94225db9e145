"""Settings of the spawner."""

import os
from decimal import Decimal

from pydantic import Field

from domain.tariff import CAD_PER_HOUR_MAX, CAD_PER_STORAGE_HOUR_MAX, Tariff
from events.words import MachineType
from services.kit.settings import ServiceSettings


def _twice_the_cores() -> int:
    return 2 * (os.cpu_count() or 1)


class SpawnerSettings(ServiceSettings):
    """How many at once, how long to wait, what to leave alone."""

    vcpu_hour_cad: Decimal = Field(default=Tariff().vcpu_hour_cad, ge=0, le=CAD_PER_HOUR_MAX, decimal_places=9)
    """What a virtual core costs by the hour, CAD; the budget's, which holds by it, must be the same."""
    gib_hour_cad: Decimal = Field(default=Tariff().gib_hour_cad, ge=0, le=CAD_PER_HOUR_MAX, decimal_places=9)
    """What a GiB of memory costs by the hour, CAD."""
    storage_gib_hour_cad: Decimal = Field(
        default=Tariff().storage_gib_hour_cad, ge=0, le=CAD_PER_STORAGE_HOUR_MAX, decimal_places=9
    )
    """What a GiB of disk costs by the hour, CAD."""
    meter_s: float = Field(default=60.0, gt=0, le=3_600)
    """How often the use of a machine at work is recorded."""
    runners: tuple[MachineType, ...] = (
        MachineType.SHELL,
        MachineType.CLAUDE_API,
        MachineType.CLAUDE_CODE,
        MachineType.QWEN_CODER,
        MachineType.AIDER,
    )
    """Machine types that this host offers; another type ends as failed, and so does one whose program is not here."""
    claude_code: str = ""
    """The native program of Claude Code; empty: `claude` on PATH."""
    qwen_code: str = ""
    """`cli-entry.js` of Qwen Code; empty: `qwen` on PATH."""
    node: str = ""
    """Node 22 or later, which runs Qwen Code; empty: `node` on PATH."""
    aider: str = ""
    """`bin/aider` of an environment of its own; empty: `aider` on PATH."""
    store: str = ""
    """Where agents find the chunk store: a directory path or a URL."""
    agent_nats_url: str = ""
    """What agents connect to; empty: `nats_url`."""
    agent_gateway_url: str = ""
    """Where agents find the model gateway, e.g. `http://127.0.0.1:8002`; empty: no machine reaches a model."""
    starts_max: int = Field(default_factory=_twice_the_cores, ge=1, le=10_000)
    """Incarnations being made at once."""
    spawner_reports_at_once: int = Field(default=32, ge=1, le=1_000)
    beat_missed_s: float = Field(default=30.0, gt=0)
    spawner_look_s: float = Field(default=0.5, gt=0)
    """How often deadlines are looked at in this process; the timers in the log are for when it is not there."""
    timer_after_s: float = Field(default=5.0, ge=0)
    """Phases that are over sooner get no timer in the log."""
    exit_grace_s: float = Field(default=3.0, ge=0)
    """How long after an agent is gone its last reports may still come."""
    spawner_retry_min_s: float = Field(default=0.2, gt=0)
    spawner_retry_max_s: float = Field(default=10.0, gt=0)
    stop_repeat_s: float = Field(default=5.0, gt=0)
    """How often an agent is told again what it has not done yet."""
    spawner_command_timeout_s: float = Field(default=5.0, gt=0)
    credential_slack_s: int = Field(default=900, ge=0)
    """How much longer than the goal's deadline an incarnation's credentials live: to seal and report."""
    sweep_s: float = Field(default=10.0, gt=0)
    """How often the host is compared with the log."""
    orphan_grace_s: float = Field(default=30.0, ge=0)
    """How long something may be on the host that the log does not want before it is destroyed."""
    orphans_always: int = Field(default=4, ge=0)
    """So many orphans are destroyed at once without a question."""
    orphans_max_percent: int = Field(default=50, ge=0, le=100)
    """More of what runs on the host is never destroyed at once: then the log is more likely the wrong one."""

    @property
    def tariff(self) -> Tariff:
        return Tariff(self.vcpu_hour_cad, self.gib_hour_cad, self.storage_gib_hour_cad)
