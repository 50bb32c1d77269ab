"""Integration with transformers: config, causal LM, and export with remote code."""
