"""Lines come out as they are in the file, however little is read at once."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

from hypothesis import given
from hypothesis import strategies as st

from recollect.importers.lines import Line, LineReader

CONTENT = st.lists(st.sampled_from([b"", b"a", b"bc", b"{}", b"dddd", b"e" * 20]), max_size=12)


def _read(path: Path, size: int, longest: int, position: int = 0, number: int = 0) -> tuple[list[Line], LineReader]:
    with path.open("rb") as file:
        reader = LineReader(file, position, number, lambda line: line == b"{}", longest)
        found: list[Line] = []
        while not reader.ended:
            found += reader.take(size)
        return found, reader


@given(CONTENT, st.booleans(), st.integers(1, 30))
def test_lines_are_those_of_the_file(texts: list[bytes], is_ended: bool, size: int) -> None:
    """With their numbers; blank ones are none; a last one without an end only if it is whole."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / "file"
        path.write_bytes(b"\n".join(texts) + (b"\n" if is_ended and texts else b""))
        whole = texts if is_ended or (texts and texts[-1] == b"{}") else texts[:-1]
        found, reader = _read(path, size, longest=10)
        assert found == [Line(at, text) for at, text in enumerate(whole, 1) if text and len(text) <= 10]
        assert reader.too_long == [at for at, text in enumerate(whole, 1) if len(text) > 10]
        again, _ = _read(path, size, 10, reader.position, reader.number)
        assert again == []


@given(CONTENT, CONTENT, st.integers(1, 30))
def test_reading_goes_on_where_it_stopped(first: list[bytes], second: list[bytes], size: int) -> None:
    """Wherever the file ended the first time, no line is lost, doubled or misnumbered."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / "file"
        path.write_bytes(b"\n".join(first))
        before, reader = _read(path, size, 100)
        with path.open("ab") as file:
            file.write(b"\n" + b"\n".join([*second, b""]))
        after, _ = _read(path, size, 100, reader.position, reader.number)
        expected = [*(first or [b""]), *second] if second else (first or [b""])
        assert before + after == [Line(at, text) for at, text in enumerate(expected, 1) if text]


def test_a_byte_order_mark_is_no_part_of_the_first_line(tmp_path: Path) -> None:
    """Some editors write one; in later lines it is what it is."""
    path = tmp_path / "file"
    path.write_bytes("\ufeffa\n\ufeffb\n".encode())
    found, reader = _read(path, 3, longest=10)
    assert found == [Line(1, b"a"), Line(2, "\ufeffb".encode())]
    assert reader.position == path.stat().st_size
