"""Where machines run: the port, and one package per kind of host."""
