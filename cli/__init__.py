"""The `autovibe` command and the stack it can embed."""
