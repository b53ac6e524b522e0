"""Text made fit for a terminal."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from recollect.cli.safe import one_line, printable, printable_json

HARMFUL = {chr(n) for n in (*range(0x20), *range(0x7F, 0xA0), *range(0x202A, 0x202F), *range(0x2066, 0x206A))}
pieces = st.lists(
    st.sampled_from(["\x1b", "[", "]", "31m", "\x9b", "\x9d", "\x07", "\\", "x", "é", "\n", "\t", "\u202e"])
)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b[1;31mred\x1b[0m", "red"),
        ("\x9b31mred", "red"),
        ("\x1b]0;title\x07text", "text"),
        ("\x1b]8;;http://x\x1b\\link\x1b]8;;\x1b\\", "link"),
        ("\x1bPq#0;2\x1b\\sixel", "sixel"),
        ("\x1bcreset", "reset"),
        ("a\r\nb\rc", "a\nb\nc"),
        ("a\tb\n", "a\tb\n"),
        ("bell\x07", "bell\ufffd"),
        ("\x1b]never ended, and all of it is shown", "never ended, and all of it is shown"),
        ("naïve 日本語 🎉", "naïve 日本語 🎉"),
    ],
)
def test_escape_sequences_are_taken_out(text: str, shown: str) -> None:
    """Whole, whatever they do; the words stay."""
    assert printable(text) == shown


@given(st.text() | pieces.map("".join))
def test_nothing_is_left_that_a_terminal_obeys(text: str) -> None:
    """For any text: no control character but tab and line feed; in one line not even those."""
    assert not set(printable(text)) & (HARMFUL - {"\t", "\n"})
    assert not set(one_line(text)) & HARMFUL


@given(st.text() | pieces.map("".join))
def test_json_stays_the_same_value(text: str) -> None:
    """What a terminal might obey is escaped, in one line for any program that splits lines."""
    encoded = printable_json(json.dumps(text, ensure_ascii=False))
    assert json.loads(encoded) == text
    assert not set(encoded) & HARMFUL
    assert len(encoded.splitlines()) == 1
