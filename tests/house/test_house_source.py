"""What every source file keeps to: docstrings, no marks of unfinished work, no mocks, SQL at home."""

from __future__ import annotations

import ast
import re
from pathlib import Path

from house_files import ROOT, name, python, source, tracked, tree

_SQL = re.compile(
    r"^\s*(SELECT\s.+\sFROM\s|INSERT\s+(OR\s+\w+\s+)?INTO\s|UPDATE\s+\w+\s+SET\s|DELETE\s+FROM\s"
    r"|CREATE\s+(UNIQUE\s+)?(TABLE|INDEX)\s|ALTER\s+TABLE\s|PRAGMA\s+\w+)",
    re.IGNORECASE | re.DOTALL,
)
_DRIVERS = {"sqlite3", "pysqlite3", "psycopg", "apsw"}
# Split, so that this file does not find itself.
_MARKS = re.compile(r"\b(TO" + r"DO|FIX" + r"ME|XX" + r"X|HA" + r"CK)\b")
_MOCKS = re.compile(r"unittest\." + r"mock|\bMagic" + r"Mock\b")


def test_every_module_says_in_its_first_line_what_it_is_for() -> None:
    silent = [name(p) for p in python("src", "tests", "bench") if p.stat().st_size and not _doc(p)]
    assert silent == []


def _doc(path: Path) -> str:
    text = ast.get_docstring(tree(path)) or ""
    return text.splitlines()[0].strip() if text else ""


def test_every_public_class_and_function_states_its_contract() -> None:
    silent = [
        f"{name(path)}:{node.lineno} {node.name}"
        for path in source()
        for node in tree(path).body
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
        and not node.name.startswith("_")
        and not ast.get_docstring(node)
    ]
    assert silent == []


def test_nothing_is_marked_unfinished() -> None:
    text_files = [p for p in tracked() if p.suffix in {".py", ".ts", ".svelte", ".toml", ""} and _is_text(p)]
    marked = [
        f"{name(p)}:{number}"
        for p in text_files
        for number, line in enumerate(p.read_text("utf-8").splitlines(), 1)
        if _MARKS.search(line) and "mktemp" not in line
    ]
    assert marked == []


def _is_text(path: Path) -> bool:
    return b"\0" not in path.read_bytes()[:8192]


def test_no_test_pretends_with_a_mock() -> None:
    pretending = [name(p) for p in python("src", "tests", "bench") if _MOCKS.search(p.read_text("utf-8"))]
    assert pretending == []


def test_no_exception_is_swallowed_whole() -> None:
    broad = {"Exception", "BaseException"}
    swallowed = [
        f"{name(path)}:{node.lineno}"
        for path in python("src", "tests", "bench")
        for node in ast.walk(tree(path))
        if isinstance(node, ast.ExceptHandler)
        and (node.type is None or (isinstance(node.type, ast.Name) and node.type.id in broad))
        and all(isinstance(x, ast.Pass) for x in node.body)
    ]
    assert swallowed == []


def test_only_store_and_flow_know_sql() -> None:
    elsewhere = [p for p in source() if p.relative_to(ROOT / "src/thopter").parts[0] not in {"store", "flow"}]
    found = [f"{name(p)}:{node.lineno}" for p in elsewhere for node in ast.walk(tree(p)) if _speaks_sql(node)]
    assert found == []
    assert any(_speaks_sql(node) for p in source("store") for node in ast.walk(tree(p))), "the test sees SQL"


def _speaks_sql(node: ast.AST) -> bool:
    if isinstance(node, ast.Import):
        return any(alias.name.split(".")[0] in _DRIVERS for alias in node.names)
    if isinstance(node, ast.ImportFrom):
        return (node.module or "").split(".")[0] in _DRIVERS
    return isinstance(node, ast.Constant) and isinstance(node.value, str) and bool(_SQL.search(node.value))


def test_boxd_runs_on_the_standard_library_of_python_3_9() -> None:
    for path in source("boxd"):
        ast.parse(path.read_text("utf-8"), str(path), feature_version=(3, 9))
        for node in ast.walk(tree(path)):
            assert not isinstance(node, ast.Match), f"{name(path)}: match needs 3.10"
