"""Stored text made fit for a terminal: transcripts hold escape sequences, and a terminal obeys them."""

from __future__ import annotations

import re

_SEQUENCES = re.compile(
    r"(?:\x1b\[|\x9b)[0-?]*[ -/]*[@-~]"  # colours, moving the cursor
    r"|(?:\x1b[\]PX^_]|[\x90\x98\x9d-\x9f])[^\x07\x1b\x9c]*(?:\x07|\x1b\\|\x9c)"  # titles, links, the clipboard
    r"|\x1b[ -/]*[0-~]"
)
_LINE_ENDS = re.compile(r"\r\n?|[\u2028\u2029]")
# C0 but tab and line feed, DEL, C1, and what turns the direction of writing
_CONTROLS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]")
# the same where JSON leaves it as it is, and what some take for the end of a line
_BARE_IN_JSON = re.compile("[\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]")


def printable(text: str) -> str:
    """The text without escape sequences; other control characters become U+FFFD. Lines stay lines."""
    return _CONTROLS.sub("\N{REPLACEMENT CHARACTER}", _SEQUENCES.sub("", _LINE_ENDS.sub("\n", text)))


def one_line(text: str) -> str:
    """The same in one line, white space collapsed."""
    return " ".join(printable(text).split())


def printable_json(encoded: str) -> str:
    """The same JSON, with characters a terminal might obey as escapes: they can only be in texts."""
    return _BARE_IN_JSON.sub(lambda found: f"\\u{ord(found[0]):04x}", encoded)
