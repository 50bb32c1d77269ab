"""Training one model on one device. Knows no study and no Optuna."""
