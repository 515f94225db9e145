"""The query service: the hub read over HTTP from the read model, and its door knocked at. It decides nothing."""
