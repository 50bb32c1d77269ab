"""Measured latency: the times of a model's blocks on a device, kept in tables, and of whole models."""
