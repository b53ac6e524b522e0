"""What a test says of the engines it concerns: one that says nothing runs on each."""

from __future__ import annotations

import pytest

ON_FILES = pytest.mark.recollect_engines("disk")
"""for what only a SQLite file has: another connection to it, its plans, its log, its bytes, the folder it lies in"""

ON_SQLITE = pytest.mark.recollect_engines("memory", "disk")
"""for what only SQLite's engine has: one thread that writes, numbers without gaps, functions and tables of SQLite"""

WITH_READERS = pytest.mark.recollect_engines("disk", "postgres")
"""for what needs a connection beside the writer's: a store in memory has one for all"""

ON_SERVER = pytest.mark.recollect_engines("postgres")
"""for what several writers at once may do to each other"""
