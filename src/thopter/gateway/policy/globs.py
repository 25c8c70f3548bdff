"""Patterns over paths in a repository: ``*`` and ``?`` within a segment, ``**`` over any number of them.

Standard library only: the hook that judges pushes uses it too.
"""

from __future__ import annotations

import functools
import re

_MOST = 200


def bad_glob(pattern: str) -> str:
    """Return what is wrong with a pattern, or ""."""
    if not pattern or len(pattern) > _MOST or not pattern.isprintable():
        return "a pattern has 1 to 200 printable characters"
    segments = pattern.split("/")
    if pattern.startswith("/") or pattern.endswith("/") or set(segments) & {"", ".", ".."}:
        return "a pattern is a path from the top of the repository, such as deploy/** or *.lock"
    if any("**" in s and s != "**" for s in segments):
        return "'**' is a segment of its own"
    return ""


@functools.lru_cache(maxsize=1000)
def _compiled(pattern: str) -> re.Pattern[str]:
    out = "" if "/" in pattern else "(?:.*/)?"  # a bare name is meant wherever it stands
    for number, segment in enumerate(pattern.split("/")):
        last = number == pattern.count("/")
        if segment == "**":
            out += ".*" if last else "(?:[^/]+/)*"
            continue
        out += "".join("[^/]*" if c == "*" else "[^/]" if c == "?" else re.escape(c) for c in segment)
        out += "" if last else "/"
    return re.compile(out, re.IGNORECASE | re.DOTALL)


def fits(pattern: str, path: str) -> bool:
    """Whether ``path`` is meant; small and big letters are the same, as on many disks."""
    return _compiled(pattern).fullmatch(path) is not None


def above(pattern: str, path: str) -> bool:
    """Whether ``path`` is a folder in which the pattern's files would stand: what is put there instead of
    a folder (a link, a submodule) would stand for them."""
    fixed = []
    for segment in pattern.split("/")[:-1]:
        if set(segment) & set("*?"):
            break
        fixed.append(segment.lower())
    parts = path.lower().split("/")
    return len(parts) <= len(fixed) and parts == fixed[: len(parts)]
