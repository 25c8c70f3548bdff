"""What house tests look at: the files git tracks (and new ones it would), the source as trees."""

from __future__ import annotations

import ast
import subprocess
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


@cache
def tracked() -> tuple[Path, ...]:
    """Return every file of the repository that is there: tracked, or new and not ignored."""
    git = [
        "git",
        "-C",
        str(ROOT),
        "-c",
        "core.quotePath=false",
        "ls-files",
        "-z",
        "-co",
        "--exclude-standard",
    ]
    names = subprocess.run(git, capture_output=True, check=True).stdout.decode().split("\0")
    return tuple(sorted({ROOT / n for n in names if n and (ROOT / n).is_file()}))


def python(*folders: str) -> list[Path]:
    """Return the Python files below these folders."""
    return [p for p in tracked() if p.suffix == ".py" and p.relative_to(ROOT).parts[0] in folders]


def source(*parts: str) -> list[Path]:
    """Return the Python files of ``src/thopter``, of these parts when some are named."""
    base = ROOT / "src" / "thopter"
    found = [p for p in tracked() if p.suffix == ".py" and p.is_relative_to(base)]
    return [p for p in found if not parts or p.relative_to(base).parts[0] in parts]


@cache
def tree(path: Path) -> ast.Module:
    """Return the parsed file."""
    return ast.parse(path.read_text("utf-8"), str(path))


def name(path: Path) -> str:
    """Return a path as people write it."""
    return path.relative_to(ROOT).as_posix()


def functions(path: Path) -> list[tuple[str, int]]:
    """Return ``(qualified name, lines)`` of every function of a file."""
    found: list[tuple[str, int]] = []

    def walk(node: ast.AST, prefix: str) -> None:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                qualified = f"{prefix}{child.name}"
                if not isinstance(child, ast.ClassDef):
                    found.append((qualified, (child.end_lineno or child.lineno) - child.lineno + 1))
                walk(child, qualified + ".")
            else:
                walk(child, prefix)

    walk(tree(path), "")
    return found
