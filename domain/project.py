"""A project: whether it takes requests, and where its trunk stands."""

from dataclasses import dataclass, replace
from uuid import UUID

from events.base import Event
from events.project import ProjectAdvanced, ProjectArchived, ProjectCreated, ProjectUpdated
from events.words import ProjectStatus


@dataclass(frozen=True, slots=True)
class Project:
    """A project as its events tell it; `Project()` is one nobody has created."""

    status: ProjectStatus | None = None
    current_checkpoint_id: UUID | None = None
    """What the next goal without `from` starts from; None until genesis is taken."""

    @property
    def exists(self) -> bool:
        return self.status is not None


def evolve(project: Project, event: Event) -> Project:
    match event:
        case ProjectCreated():
            return replace(project, status=ProjectStatus.ACTIVE)
        case ProjectUpdated(status=status, current_checkpoint_id=checkpoint_id):
            return replace(
                project,
                status=status or project.status,
                current_checkpoint_id=checkpoint_id or project.current_checkpoint_id,
            )
        case ProjectArchived():
            return replace(project, status=ProjectStatus.ARCHIVED)
        case ProjectAdvanced(checkpoint_id=checkpoint_id):
            return replace(project, current_checkpoint_id=checkpoint_id)
        case _:
            return project
