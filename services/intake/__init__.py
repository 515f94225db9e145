"""The intake: the door. What anybody outside says goes through here into the log, or is refused with its reason."""
