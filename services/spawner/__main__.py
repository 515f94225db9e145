"""Runs the spawner alone, with the local hypervisor."""
