"""Perplexity and generation of any model folder."""
