"""Common parts of mixers with the delta rule: spec, sizes, layer, recurrence, start from attention."""
