"""JSON files, locks of folders, loss curves and cache paths. Standard library only."""
