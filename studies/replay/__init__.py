"""A table of finished trainings and its replay, which tests schedulers and samplers in seconds."""
