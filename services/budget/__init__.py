"""The budget: who may run, what is set aside for it, what is settled in the end."""
