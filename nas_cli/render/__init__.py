"""Rendering for commands: tables, plots, live views, progress bars."""
