"""The texts in structured values and in tool calls: the same ones however deep, and however cut."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recollect.encoding import texts
from recollect.search.calls import _beginning as beginning
from recollect.search.calls import texts_of_calls

ENOUGH = settings(derandomize=True, deadline=None, max_examples=150)
WORDS = st.text(st.characters(exclude_categories=["Cs"]), max_size=6) | st.sampled_from(
    ['a "b" {c', "\\u12", "\\", "data:x"]
)
NAMES = st.sampled_from(["type", "id", "text", "input", "data", 'q"', "a:b"])
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 10**6) | WORDS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(NAMES, inner, max_size=4),
)
DEEP = 100_000


def by_recursion(value: Any) -> Iterator[str]:
    if isinstance(value, str) and not value.startswith("data:"):
        yield value
    for inner in value if isinstance(value, list) else ():
        yield from by_recursion(inner)
    for name, inner in value.items() if isinstance(value, dict) else ():
        if name not in ("type", "id", "data"):
            yield from by_recursion(inner)


@given(VALUES)
@ENOUGH
def test_texts_come_in_the_order_they_were_written(value: Any) -> None:
    """Depth first, list by list and field by field."""
    assert list(texts(value)) == list(by_recursion(value))


def test_no_depth_is_too_deep() -> None:
    """Neither a structure nor JSON that is nested far deeper than Python calls raises RecursionError."""
    value: Any = "bottom"
    for _ in range(DEEP):
        value = [{"input": value}, "after"]
    assert list(texts(value)) == ["bottom", *["after"] * DEEP]
    assert list(texts_of_calls('[{"input":' * DEEP + '"bottom"' + "}]" * DEEP)) == ["bottom"]


@given(VALUES)
@ENOUGH
def test_the_loop_reads_what_the_decoder_reads(value: Any) -> None:
    """So it makes no difference which of the two a row's words came from."""
    json = msgspec.json.encode(value).decode()
    assert list(texts(beginning(json))) == list(texts(value))


@given(VALUES, st.integers(0, 80))
@ENOUGH
def test_the_texts_of_a_cut_document_are_the_first_of_the_whole(value: Any, at: int) -> None:
    """The last of them may be cut."""
    json = msgspec.json.encode(value).decode()
    found = list(texts_of_calls(json[:at]))
    whole = list(texts(value))
    *before, last = found or [""]
    assert before == whole[: len(before)]
    assert not found or "data:".startswith(last[:5]) or whole[len(before)].startswith(last)


@pytest.mark.parametrize("json", ["", "]", "}{", '{"a"', '"', '"\\', "]]]1", '{"a":"\\ud83d"}', "nul"])
def test_what_is_no_json_has_no_words_or_some(json: str) -> None:
    """Whatever stands in the column, reading it does not fail."""
    assert all(isinstance(text, str) for text in texts_of_calls(json))
