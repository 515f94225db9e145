"""The checkpointer: the only one who says what is a checkpoint."""
