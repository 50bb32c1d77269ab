"""What `nas bench` measures."""
