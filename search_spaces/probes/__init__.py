"""Probes: generated tasks that every architecture learns from scratch."""
