"""Searches replayed from a table of architectures that were all trained once."""
