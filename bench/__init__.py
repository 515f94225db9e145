"""Measurements against peers; nothing of ours imports them."""
