"""At which line of a TOML text a key stands: the reader of TOML does not tell."""

from __future__ import annotations

import re
from collections.abc import Sequence

_HEADER = re.compile(r"^\s*(\[\[?)\s*([^\[\]]+?)\s*\]\]?\s*(?:#.*)?$")
_KEY = re.compile(
    r"""^\s*((?:"[^"]*"|'[^']*'|[A-Za-z0-9_-]+)(?:\s*\.\s*(?:"[^"]*"|'[^']*'|[A-Za-z0-9_-]+))*)\s*="""
)
_PART = re.compile(r""""([^"]*)"|'([^']*)'|([A-Za-z0-9_-]+)""")

Path = tuple[str | int, ...]


def line_of(text: str, path: Sequence[str | int]) -> int:
    """Return the line (from 1) of the key at ``path`` (names, and numbers of array items), of the
    nearest table or key around it when it has no line of its own, or 1."""
    known = _places(text)
    wanted = tuple(path)
    while wanted:
        if wanted in known:
            return known[wanted]
        wanted = wanted[:-1]
    return 1


def _places(text: str) -> dict[Path, int]:
    found: dict[Path, int] = {}
    counts: dict[Path, int] = {}
    table: Path = ()
    for number, line in enumerate(text.splitlines(), 1):
        header = _HEADER.match(line)
        if header:
            table = _enter(_parts(header[2]), header[1] == "[[", counts)
            found.setdefault(table, number)
            continue
        key = _KEY.match(line)
        if key:
            at = table
            for part in _parts(key[1]):
                at = (*at, part)
                found.setdefault(at, number)
    return found


def _enter(names: list[str], item: bool, counts: dict[Path, int]) -> Path:
    """The path of a table header; names that are arrays of tables mean their last item so far."""
    at: Path = ()
    for place, part in enumerate(names):
        at = (*at, part)
        if item and place == len(names) - 1:
            counts[at] = counts.get(at, -1) + 1
        if at in counts:
            at = (*at, counts[at])
    return at


def _parts(text: str) -> list[str]:
    return [a or b or c for a, b, c in _PART.findall(text)]
