"""Benchmarks of `nas bench`."""
