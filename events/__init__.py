"""The contract: every event, who may say it, how it is addressed and what travels beside it. Pure data, no I/O."""
