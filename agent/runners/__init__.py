"""What can pursue a goal: one file per machine type, found by `runner_for`."""

from agent.runners.port import Runner
from agent.runners.shell import ShellRunner
from events.words import MachineType

RUNNERS: dict[MachineType, Runner] = {MachineType.SHELL: ShellRunner()}


def runner_for(machine_type: MachineType) -> Runner | None:
    """Return the runner of this machine type; None: this agent has none."""
    return RUNNERS.get(machine_type)
