"""The services; each one runs alone or beside the others in one process."""
