"""The house keeps its shape: who may import whom, what may be opened, what things are called."""

from __future__ import annotations

import ast
import re
import tomllib
from pathlib import Path

import recollect

SOURCE = Path(recollect.__file__).parent
MODULES = {path.relative_to(SOURCE): ast.parse(path.read_text()) for path in sorted(SOURCE.rglob("*.py"))}
ROOMS = {"sessions", "messages", "usage", "events", "learning", "search", "store", "importers", "cli", "testing"}


def imported(path: Path, tree: ast.Module) -> set[str]:
    """The full names of the modules a module imports."""
    package = ("recollect", *path.with_suffix("").parts[:-1])
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            names.add(".".join((*base, *((node.module or "").split(".") if node.module else ()))))
    return names


def test_nothing_in_the_engine_knows_a_room():
    """Imports point downward: rooms → engine, never back."""
    upward = [
        (str(path), name)
        for path, tree in MODULES.items()
        if path.parts[0] == "engine"
        for name in imported(path, tree)
        if name.startswith("recollect.") and name.split(".")[1] in ROOMS
    ]
    assert upward == []


def test_aiosqlite_has_one_room():
    """Only engine/sqlite/thread.py imports it."""
    importers = [
        str(path) for path, tree in MODULES.items() if any(n.split(".")[0] == "aiosqlite" for n in imported(path, tree))
    ]
    assert importers == ["engine/sqlite/thread.py"]


def test_the_writer_and_the_vocabulary_know_no_database():
    """engine/operation.py and engine/writer.py import no driver."""
    for name in ("operation.py", "writer.py", "fulltext.py"):
        assert not imported(Path("engine", name), MODULES[Path("engine", name)]) & {"sqlite3", "aiosqlite", "psycopg"}


def test_rooms_reach_no_engine_in_particular():
    """But for the store, which chooses one, and what reads SQLite files of others."""
    reaching = [
        (str(path), name)
        for path, tree in MODULES.items()
        if path.parts[0] not in ("engine", "cli")
        for name in imported(path, tree)
        if name.startswith(("recollect.engine.sqlite", "recollect.engine.postgres"))
    ]
    allowed = {
        ("store.py", "recollect.engine.sqlite.engine"),
        ("store.py", "recollect.engine.postgres.engine"),
        ("importers/database.py", "recollect.engine.sqlite.faults"),
    }
    assert set(reaching) <= allowed


def test_modules_and_functions_stay_short():
    """Modules under about 400 lines, functions under 40 without their docstring."""
    long = [str(path) for path in MODULES if (SOURCE / path).read_text().count("\n") > 410]
    for path, tree in MODULES.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                body = node.body[1:] if ast.get_docstring(node) else node.body
                if body and (node.end_lineno or 0) - body[0].lineno > 40:
                    long.append(f"{path}:{node.name}")
    assert long == []


def test_everything_public_says_what_it_means():
    """Public classes, methods and functions have a docstring."""
    silent = [
        f"{path}:{node.lineno} {node.name}"
        for path, tree in MODULES.items()
        for owner in ast.walk(tree)
        if isinstance(owner, ast.Module | ast.ClassDef) and not getattr(owner, "name", "").startswith("_")
        for node in owner.body
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
        if not node.name.startswith("_") and not ast.get_docstring(node)
    ]
    assert silent == []


def test_the_suite_for_engines_goes_with_the_package():
    """What the wheel takes of the tests is there, and asks for nothing that it leaves behind."""
    root = Path(__file__).parents[2]
    settings = tomllib.loads((root / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]["wheel"]
    taken = [root / path for path in settings["force-include"]]
    assert all(path.exists() for path in taken)
    files = [file for path in taken for file in ([path] if path.is_file() else path.rglob("*.py"))]
    left = re.compile(
        r"^\s*(from \.\.|from tests|import tests|from (faults|cli|engine|importers)\b.* import)", re.MULTILINE
    )
    assert [str(file) for file in files if file.suffix == ".py" and left.search(file.read_text())] == []
