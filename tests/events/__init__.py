"""The contract: every event loads for ever, is frozen, bounded, documented, and means what it says."""
