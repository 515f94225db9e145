"""Content-addressed snapshots of a workspace."""
