"""The rehearsal model."""
