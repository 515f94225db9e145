"""What every test may use: real servers, databases, and waiting for a level. The fixtures are in `servers`."""

from tests.harness.places import free_port, short_directory
from tests.harness.waiting import eventually

__all__ = ["eventually", "free_port", "short_directory"]
