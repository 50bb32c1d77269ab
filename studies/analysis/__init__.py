"""Analysis of a study's results; reads a study and never writes to it."""
