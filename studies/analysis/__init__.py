"""What a study's results say: reads a study, never writes."""
