"""Plots, pages, CSV and the dashboard."""
