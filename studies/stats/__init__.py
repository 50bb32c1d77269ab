"""Statistics over numpy arrays. Knows no study, no Optuna study and no torch."""
