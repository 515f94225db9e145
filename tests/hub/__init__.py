"""The hub's own record, on a real server."""
