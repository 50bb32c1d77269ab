"""Probes: generated tasks that every architecture learns anew."""
