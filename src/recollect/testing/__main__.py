"""The suite that defines what an engine is, on every one of `ENGINES`: `python -m recollect.testing [options]`.

The behaviour of every room, as the project's own tests have it; it comes with the package. It takes
`recollect[test]`. `-k disk` runs it on one engine; `-m matrix` runs the cases that are left out otherwise, for a test
with many cases has only its first on most engines. A further engine is a line in `ENGINES`.
"""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

PACKAGED = Path(__file__).parent / "suite"
CHECKOUT = Path(__file__).parents[3] / "tests"


def suite() -> Path:
    """The folder with the tests: in the package, or in the checkout that it is run from."""
    return PACKAGED if PACKAGED.is_dir() else CHECKOUT


def main(options: list[str]) -> int:
    """Runs it; pytest's exit status."""
    chosen = [] if "-m" in options else ["-m", "not slow and not matrix"]
    settings = ["-c", str(suite() / "suite.ini"), "--rootdir", str(suite()), "-p", "no:cacheprovider"]
    return int(pytest.main([*settings, *chosen, *options, str(suite() / "rooms")]))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
