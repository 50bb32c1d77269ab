"""User input: problems, options, YAML and JSON files, quantities, the backbone. No torch."""
