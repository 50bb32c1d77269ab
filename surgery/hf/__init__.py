"""The models of `surgery` as transformers sees them: config, causal LM, export with remote code."""
