"""Latents of HDPL projections over texts: statistics, differences, and adapters that shift them."""
