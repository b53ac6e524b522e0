"""The command line, `recollect`: arguments in, the store's rooms asked, lines for people or machines out.

One module per command, and one each for what they share: options, opening, running, the screen. It
needs the extra `cli`; nothing of it is imported with the library.
"""

from __future__ import annotations

import sys

_EXTRA = {"typer", "rich", "platformdirs"}


def main() -> None:
    """The script `recollect`."""
    try:
        try:
            from .app import app
        except ModuleNotFoundError as error:
            if (error.name or "").partition(".")[0] not in _EXTRA:
                raise
            sys.exit("the command line of recollect is an extra: pip install 'recollect[cli]'")
        app()
    except KeyboardInterrupt:  # before a command ran, as while its modules are imported
        sys.exit(130)
