"""Search: what people type → terms → pages of hits; the index is kept behind the writes."""
