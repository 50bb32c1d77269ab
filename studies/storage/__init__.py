"""Optuna's storages: the embedded journal, databases, and the attributes that nas writes."""
