"""What a service is to whoever runs it."""

from types import TracebackType
from typing import Protocol, Self

from services.kit.health import Health
from services.kit.metrics import Metrics


class Service(Protocol):
    """Made by its `create_app`; it runs inside its `async with` block."""

    name: str
    metrics: Metrics

    async def __aenter__(self) -> Self: ...

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None: ...

    async def health(self) -> Health: ...
