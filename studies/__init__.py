"""Studies: searches, trainings and their results; part of nas-cli. The rooms are in docs/architecture.md."""
