"""Who owns the tables, and how those that are folded from the log are made: what services may know of `schema`."""

from schema.migrations import OWNER, READER, create_tables

__all__ = ["OWNER", "READER", "create_tables"]
