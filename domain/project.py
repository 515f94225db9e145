"""A project: whether it takes requests, where its trunk stands, and what its machines are."""

from dataclasses import dataclass, replace
from uuid import UUID

from events.base import Event
from events.project import AgentPolicy, ProjectAdvanced, ProjectArchived, ProjectCreated, ProjectUpdated
from events.words import ProjectStatus

NO_POLICY = AgentPolicy()


@dataclass(frozen=True, slots=True)
class Project:
    """A project as its events tell it; `Project()` is one nobody has created."""

    status: ProjectStatus | None = None
    current_checkpoint_id: UUID | None = None
    """What the next goal without `from` starts from; None until genesis is taken."""
    agent_policy: AgentPolicy = NO_POLICY

    @property
    def exists(self) -> bool:
        return self.status is not None


def evolve(project: Project, event: Event) -> Project:
    match event:
        case ProjectCreated(agent_policy=policy):
            return replace(project, status=ProjectStatus.ACTIVE, agent_policy=policy)
        case ProjectUpdated(status=status, current_checkpoint_id=checkpoint_id, agent_policy=policy):
            return replace(
                project,
                status=status or project.status,
                current_checkpoint_id=checkpoint_id or project.current_checkpoint_id,
                agent_policy=policy or project.agent_policy,
            )
        case ProjectArchived():
            return replace(project, status=ProjectStatus.ARCHIVED)
        case ProjectAdvanced(checkpoint_id=checkpoint_id):
            return replace(project, current_checkpoint_id=checkpoint_id)
        case _:
            return project
