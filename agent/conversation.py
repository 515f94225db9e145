"""Which conversation a machine's agent goes on with: a small file in its home says which one is there.

The file is captured with the home, so it always tells of the same moment as the conversation beside it. Whatever stands
in it was written by something that is not to be trusted, and can only mislead its own machine.
"""

from uuid import UUID, uuid5

from pydantic import BaseModel, ConfigDict, ValidationError

from agent.runners.port import Runner, Start
from agent.workspace import Workspace
from events.agent import AgentSpec
from events.words import MachineType

PATH = "home/.autovibe/session.json"
_STATE_BYTES_MAX = 4_096


class State(BaseModel):
    """Whose conversation is in this home."""

    model_config = ConfigDict(frozen=True)

    machine_id: UUID
    machine_type: MachineType
    forked_from: UUID | None = None
    """The session that this machine's conversation is a copy of."""
    setup_done: bool = False
    """The project's setup script has run for this machine, or there was none."""


def session_of(machine_id: UUID) -> UUID:
    """The id of a machine's conversation; a random one's form (version 5), which every CLI takes."""
    return uuid5(machine_id, "conversation")


class Conversation:
    """What this incarnation found in its home."""

    def __init__(self, spec: AgentSpec, workspace: Workspace) -> None:
        self._spec, self._workspace = spec, workspace
        self._found = _read(workspace)
        self._mine = self._found is not None and self._found.machine_id == spec.machine_id
        self.setup_is_due = bool(spec.agent_policy.setup) and not (
            self._mine and self._found is not None and self._found.setup_done
        )

    def start(self, runner: Runner) -> Start:
        """How the runner starts: it resumes its own conversation, wherever in it the workspace was captured."""
        own = session_of(self._spec.machine_id)
        if not runner.converses:
            return Start(own)
        if self._mine and self._is_written(runner, own):
            return Start(own, "resume")
        other = self._other()
        if other is not None and self._is_written(runner, other):
            return Start(own, "fork", other)
        return Start(own)

    def remember(self, start: Start) -> None:
        """Write whose conversation it is from now on, before the first word of it.

        Raises:
            inject.Escape, OSError: The home does not let us.
        """
        spec = self._spec
        state = State(
            machine_id=spec.machine_id,
            machine_type=spec.machine_type,
            forked_from=start.forked_from or (self._found.forked_from if self._mine and self._found else None),
            setup_done=True,
        )
        self._workspace.put(PATH, state.model_dump_json().encode())

    def _other(self) -> UUID | None:
        found = self._found
        if found is None or found.machine_type != self._spec.machine_type:
            return None
        if self._mine:
            return found.forked_from
        return session_of(found.machine_id) if self._spec.agent_policy.conversation == "fork" else None

    def _is_written(self, runner: Runner, session_id: UUID) -> bool:
        return any(self._workspace.size_bytes(path) for path in runner.transcripts(self._spec, session_id))


def _read(workspace: Workspace) -> State | None:
    raw = workspace.read(PATH, _STATE_BYTES_MAX)
    if raw is None:
        return None
    try:
        return State.model_validate_json(raw)
    except ValidationError:
        return None
