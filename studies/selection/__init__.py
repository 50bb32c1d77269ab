"""Selects one option per part of a model under exact limits. Arrays in, choices out."""
