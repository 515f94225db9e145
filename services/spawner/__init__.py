"""The spawner: makes machines run on a hypervisor and says what becomes of them."""
