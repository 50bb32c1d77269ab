"""Locks between processes, atomic writes, and output files that a user names. No torch."""
