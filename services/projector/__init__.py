"""The projector: copies the log into PostgreSQL and folds it into read models, in order, each event once."""
