"""Events: what happened around sessions, of any kind, recorded whole and found again."""
