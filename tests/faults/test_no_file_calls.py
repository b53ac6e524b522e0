"""Nothing in the source opens the database as a file: one stray close would drop its locks."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import recollect

SOURCE = Path(recollect.__file__).parent

OPENING = {
    "open", "os.open", "os.fdopen", "io.open", "open_code", "io.FileIO", "mmap.mmap", "os.truncate", "os.mkfifo",
    "os.link", "os.symlink", "codecs.open", "fileinput.input", "tempfile.NamedTemporaryFile", "aiofiles.open",
}  # fmt: skip
OPENING_METHODS = {
    "read_text", "read_bytes", "write_text", "write_bytes", "open", "touch", "copyfile", "copy", "copy2", "copytree",
    "unlink", "rename", "replace", "rmtree", "move", "open_file",
}  # fmt: skip
"""methods of paths, and functions of os and shutil"""

ALLOWED = {
    ("engine/sqlite/connect.py", "os.open"): "makes the file, O_EXCL, before SQLite has it",
    ("engine/sqlite/lockfile.py", "os.open"): "<database>.lock, which is another file",
    ("engine/sqlite/migrate.py", "read_text"): "the package's own .sql files",
    ("engine/postgres/migrate.py", "read_text"): "the same",
}
WHERE_DATABASES_ARE = (
    "engine", "store.py", "scoped.py", "access.py", "journal.py", "search", "sessions", "messages", "usage", "encoding.py",
    "filters.py",
)  # fmt: skip
HARMLESS = {"replace", "copy"}
"""methods of texts and dicts as well: counted as functions of os and shutil only"""


def calls(path: Path) -> Iterator[tuple[int, str]]:
    """Every call that may open, move or remove a file: its line and its name."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call):
            name = ast.unparse(node.func)
            method = name.rpartition(".")[2]
            if name in OPENING:
                yield node.lineno, name
            elif method in HARMLESS and not name.startswith(("os.", "shutil.")):
                continue
            elif "." in name and method in OPENING_METHODS and not name.startswith(("self.", "asyncio.", "msgspec.")):
                yield node.lineno, method


def databases_modules() -> list[Path]:
    """The modules that know where the database is."""
    found = []
    for place in WHERE_DATABASES_ARE:
        path = SOURCE / place
        found += sorted(path.rglob("*.py")) if path.is_dir() else [path]
    return found


def test_nothing_opens_the_database_path():
    """Calls that open files, in the modules that know the path, are those of the list and no others."""
    unexpected, seen = [], set()
    for path in databases_modules():
        module = path.relative_to(SOURCE).as_posix()
        for line, name in calls(path):
            seen.add((module, name))
            if (module, name) not in ALLOWED:
                unexpected.append(f"{module}:{line} {name}")
    assert unexpected == []
    assert set(ALLOWED) <= seen, "the list names what is there no more"


def test_the_walk_finds_what_it_looks_for(tmp_path: Path):
    """The test of the test: each way of opening a file is seen."""
    code = "open(p)\nos.open(p, 0)\nPath(p).read_bytes()\np.open()\nshutil.copyfile(p, q)\np.unlink()\nio.FileIO(p)\n"
    (tmp_path / "m.py").write_text(code, encoding="utf-8")
    assert [line for line, _ in calls(tmp_path / "m.py")] == [1, 2, 3, 4, 5, 6, 7]


def test_only_one_module_touches_the_driver_of_the_thread():
    """aiosqlite is imported in engine/sqlite/thread.py and nowhere else."""
    importing = {
        path.relative_to(SOURCE).as_posix()
        for path in SOURCE.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if (isinstance(node, ast.Import) and any(each.name.split(".")[0] == "aiosqlite" for each in node.names))
        or (isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "aiosqlite")
    }
    assert importing == {"engine/sqlite/thread.py"}
