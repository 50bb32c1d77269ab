"""Decisions of a search: the next trial, pausing, resuming and replicating."""
