"""The benchmarks of `nas bench`, one file each."""
