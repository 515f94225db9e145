"""The supervisor inside a machine, and the runners it starts."""
