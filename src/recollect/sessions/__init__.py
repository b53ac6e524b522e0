"""Sessions: their life, lineage, keys, turns and state; listing, retention, moving."""
