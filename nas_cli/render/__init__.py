"""What commands print: tables, plots, live views, progress."""
