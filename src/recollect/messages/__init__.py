"""Messages: prepared, appended, read; put away, taken back, rewritten."""
