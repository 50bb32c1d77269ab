"""Audit of a study's proxy: the agreement of its ranking with that of longer training."""
