"""Healing: training that brings a rewritten model back to its original's quality."""
