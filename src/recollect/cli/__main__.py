"""`python -m recollect.cli` is `recollect`."""

from . import main

main()
