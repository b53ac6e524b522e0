"""Measurements: each beside plain synchronous sqlite3 doing the same work, as a ratio in one run.

`python -m benchmarks` runs all and prints a table; `--json` prints the same for machines.
"""
