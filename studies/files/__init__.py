"""Files: atomic writes, locks, curves and where caches live. Standard library only."""
