"""What `nas bench` measures: one file a benchmark. All measure side by side in one process."""
