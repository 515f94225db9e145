"""Where machines run: the port and its drivers."""
