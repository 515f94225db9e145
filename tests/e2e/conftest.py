"""The hub fixture."""

from tests.harness.hub import hub

__all__ = ["hub"]
