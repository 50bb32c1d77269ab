"""Files: atomic writes, locks, loss curves and cache paths. Standard library only."""
