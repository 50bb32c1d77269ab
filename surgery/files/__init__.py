"""Locks between processes. No torch."""
