"""Files of runs and caches: written whole, locked, found again by content."""
