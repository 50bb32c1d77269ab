"""Early stopping for several objectives: compare a run at its rung with the runs that cost no more."""
