"""Plots, HTML pages, CSV and the dashboard."""
