"""What can pursue a goal: one file per machine type, found by `runner_for`."""

from agent.runners.aider import AiderRunner
from agent.runners.claude_api import ClaudeApiRunner
from agent.runners.claude_code import ClaudeCodeRunner
from agent.runners.port import Runner
from agent.runners.qwen_coder import QwenCoderRunner
from agent.runners.shell import ShellRunner
from events.words import MachineType

RUNNERS: dict[MachineType, Runner] = {
    MachineType.SHELL: ShellRunner(),
    MachineType.CLAUDE_API: ClaudeApiRunner(),
    MachineType.CLAUDE_CODE: ClaudeCodeRunner(),
    MachineType.QWEN_CODER: QwenCoderRunner(),
    MachineType.AIDER: AiderRunner(),
}


def runner_for(machine_type: MachineType) -> Runner | None:
    """Return the runner of this machine type; None: this agent has none."""
    return RUNNERS.get(machine_type)
