"""Perplexity of, and generation from, any model folder."""
