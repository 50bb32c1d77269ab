"""A study on disk: its folder, its Optuna storage, its trials."""

from studies.study.settings import StudySettings
from studies.study.study import Study

__all__ = ["Study", "StudySettings"]
