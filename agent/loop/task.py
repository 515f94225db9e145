"""What the built-in agent is told, on its standard input."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Task:
    """One run. The gateway's address and the token come in the environment, as the SDK reads them."""

    model: str
    system: str
    prompt: str
    conversation: Path
    """The file that holds this machine's conversation; there or not."""
    take_over: Path | None = None
    """Another machine's, to begin with a copy of; only where `conversation` is not there yet."""
    workspace: Path = Path("/workspace")
    turns_max: int = 200
    output_tokens_max: int = 16_000
    """Of one reply."""
    retries_max: int = 4

    @classmethod
    def read(cls, said: Mapping[str, object]) -> "Task":
        """Make a task of what `json` has read.

        Raises:
            KeyError, ValueError: It is not one.
        """
        take_over = said.get("take_over")
        return cls(
            model=str(said["model"]),
            system=str(said["system"]),
            prompt=str(said["prompt"]),
            conversation=Path(str(said["conversation"])),
            take_over=Path(str(take_over)) if take_over else None,
            workspace=Path(str(said["workspace"])),
            turns_max=int(str(said["turns_max"])),
            output_tokens_max=int(str(said["output_tokens_max"])),
        )
