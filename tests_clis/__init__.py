"""The real agents, installed apart from our environment, in real sandboxes: `make test-clis`. Not in the default run."""
