"""Machines as bubblewrap sandboxes on this host."""

from hypervisors.local.driver import LocalHypervisor, LocalSettings

__all__ = ["LocalHypervisor", "LocalSettings"]
