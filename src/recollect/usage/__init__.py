"""Usage: a ledger of tokens and costs; the counters of a session are its sums."""
