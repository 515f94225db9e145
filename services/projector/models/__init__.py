"""The read models, in the order in which they are folded: machines count what checkpoints and usage have written."""

from typing import Final

from services.projector.models import budgets, checkpoints, credentials, hub, machines, projects, usage
from services.projector.models.base import Model

MODELS: Final[tuple[Model, ...]] = (
    projects.PROJECTS,
    checkpoints.CHECKPOINTS,
    usage.USAGE,
    usage.TOTALS,
    machines.MACHINES,
    budgets.RESERVATIONS,
    budgets.LINES,
    budgets.BUDGETS,
    credentials.CREDENTIALS,
    hub.INSTANCES,
)
