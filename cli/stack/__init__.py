"""The embedded stack: the servers that come as wheels, started and stopped with the process that asked for them."""
