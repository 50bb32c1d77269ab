"""Models that predict results from observations: arrays in, predictions out."""
