"""Matching relative paths: ``*`` and ``?`` stay within a name, ``**`` crosses folders."""

from __future__ import annotations

import os
import re
import stat
from typing import Callable, List, Optional

from thopter.boxd.fields import bad
from thopter.boxd.wire import to_bytes

_MAX_FOUND = 20_000
_MAX_DEPTH = 24


class Glob:
    """A compiled pattern for paths relative to a root. Raises OpError for one that can't match."""

    def __init__(self, pattern: str) -> None:
        if not pattern or pattern.startswith("/") or len(pattern) > 1000:
            raise bad("glob must be a relative pattern")
        parts = pattern.split("/")
        if any(part in ("", ".", "..") for part in parts):
            raise bad("glob must hold no empty part, '.' or '..'")
        self.deep = "**" in parts
        self.depth = len(parts)
        regex = ""
        for i, part in enumerate(parts):
            last = i == len(parts) - 1
            if part == "**":
                regex += ".*" if last else "(?:.*/)?"
            else:
                regex += _one(part) + ("" if last else "/")
        self._match = re.compile(to_bytes(regex), re.DOTALL).fullmatch

    def matches(self, relative: bytes) -> bool:
        """True when the relative path of a file matches."""
        return self._match(relative) is not None

    def enters(self, depth: int) -> bool:
        """True when files of a folder ``depth`` levels below the root could match."""
        return depth < _MAX_DEPTH if self.deep else depth < self.depth


def _one(part: str) -> str:
    out = ""
    for c in part:
        out += "[^/]*" if c == "*" else "[^/]" if c == "?" else re.escape(c)
    return out


def find(root: bytes, glob: Glob, enter: Optional[Callable[[bytes], None]] = None) -> List[bytes]:
    """Return matching regular files below ``root``, relative and sorted.

    ``enter(folder)`` is called for each folder (relative, ``b""`` is the root) before it is looked
    into. Symlinks are not followed; what can't be read is left out; at most 20,000 files.
    """
    found: List[bytes] = []
    todo = [(b"", 0)]
    while todo and len(found) < _MAX_FOUND:
        folder, depth = todo.pop()
        if enter is not None:
            enter(folder)
        try:
            names = os.listdir(os.path.join(root, folder))
        except OSError:
            continue
        for name in names:
            relative = folder + b"/" + name if folder else name
            try:
                mode = os.lstat(os.path.join(root, relative)).st_mode
            except OSError:
                continue
            if stat.S_ISDIR(mode):
                if glob.enters(depth + 1):
                    todo.append((relative, depth + 1))
            elif stat.S_ISREG(mode) and glob.matches(relative):
                found.append(relative)
    found.sort()
    return found
