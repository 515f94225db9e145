"""The decisions: one pure decider per aggregate."""
