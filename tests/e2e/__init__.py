"""The whole hub, used from outside."""
