"""Worker processes: training trials, heartbeats, signals and supervision."""
