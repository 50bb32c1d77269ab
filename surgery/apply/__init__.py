"""Rewriting a pretrained checkpoint into an architecture: read, plan, execute, verify, publish."""
