"""A rehearsal model: a small server of our own that answers as a provider does, by a script. It understands nothing."""
