"""The plumbing that all services share, and nothing else does."""
