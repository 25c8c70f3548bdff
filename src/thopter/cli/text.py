"""Drawing text: ages, widths, colours, columns. Nothing here knows a terminal."""

from __future__ import annotations

import time
from collections.abc import Sequence

_CODES = {
    "bold": "1", "dim": "2", "red": "31", "green": "32", "yellow": "33", "blue": "34",
    "magenta": "35", "cyan": "36", "grey": "90",
}  # fmt: skip

STATE_COLOURS = {
    "working": "green",
    "waiting": "yellow",
    "done": "cyan",
    "failed": "red",
    "unknown": "magenta",
    "queued": "blue",
    "starting": "blue",
    "stopped": "grey",
}


def paint(text: str, *styles: str, on: bool = True) -> str:
    """Return ``text`` in a colour or weight when ``on``."""
    if not on or not text or not styles:
        return text
    return f"\x1b[{';'.join(_CODES[s] for s in styles)}m{text}\x1b[0m"


def now_ms() -> int:
    """Wall time in milliseconds (kit.clock would bring asyncio with it)."""
    return time.time_ns() // 1_000_000


def span(seconds: float) -> str:
    """A length of time in its largest unit: ``12s 3m 5h 2d``."""
    seconds = max(seconds, 0)
    for size, unit in ((86400, "d"), (3600, "h"), (60, "m")):
        if seconds >= size:
            return f"{int(seconds // size)}{unit}"
    return f"{int(seconds)}s"


def long_span(seconds: float) -> str:
    """A length of time in two units: ``3m 12s``."""
    whole = int(max(seconds, 0))
    for size, unit, small, below in ((86400, "d", 3600, "h"), (3600, "h", 60, "m"), (60, "m", 1, "s")):
        if whole >= size:
            rest = whole % size // small
            return f"{whole // size}{unit}" + (f" {rest}{below}" if rest else "")
    return f"{whole}s"


def ago(at_ms: int, now_ms: int) -> str:
    """``3m ago``; ``never`` for 0."""
    return span((now_ms - at_ms) / 1000) + " ago" if at_ms else "never"


def width(text: str) -> int:
    """Columns that ``text`` takes on a terminal (no control characters in it)."""
    if text.isascii():
        return len(text)
    import unicodedata

    total = 0
    for ch in text:
        if unicodedata.category(ch) in ("Mn", "Me"):
            continue
        total += 2 if unicodedata.east_asian_width(ch) in "WF" else 1
    return total


def fit(text: str, columns: int) -> str:
    """Cut ``text`` to ``columns``, with "…" when something is missing."""
    if width(text) <= columns:
        return text
    if columns <= 1:
        return "…"[:columns]
    return _head(text, columns - 1).rstrip() + "…"


def _head(text: str, columns: int) -> str:
    """The longest beginning of ``text`` that fits."""
    used = 0
    for at, ch in enumerate(text):
        used += width(ch)
        if used > columns:
            return text[:at]
    return text


def pad(text: str, columns: int) -> str:
    """Fill ``text`` with spaces up to ``columns``."""
    return text + " " * (columns - width(text))


def table(header: Sequence[str], rows: Sequence[Sequence[str]], gap: int = 2) -> list[str]:
    """Aligned columns as plain lines; the last one is not padded."""
    sizes = [max([width(header[i]), *(width(row[i]) for row in rows)]) for i in range(len(header))]
    lines = []
    for row in (header, *rows):
        cells = [pad(cell, sizes[i]) for i, cell in enumerate(row[:-1])]
        lines.append((" " * gap).join([*cells, row[-1]]).rstrip())
    return lines


def wrap(text: str, columns: int, indent: str = "") -> list[str]:
    """Break ``text`` at spaces into lines of at most ``columns`` with ``indent`` before each."""
    room = max(columns - len(indent), 10)
    lines: list[str] = []
    for paragraph in text.split("\n"):
        line = ""
        for word in paragraph.split(" "):
            while width(word) > room:  # a word longer than the line is cut
                if line:
                    lines.append(indent + line)
                    line = ""
                head = _head(word, room)
                lines.append(indent + head)
                word = word[len(head) :]
            if line and width(line) + 1 + width(word) > room:
                lines.append(indent + line)
                line = word
            else:
                line = f"{line} {word}" if line else word
        lines.append(indent + line if line else "")
    return lines


def plural(count: int, one: str, many: str = "") -> str:
    """``1 commit``, ``2 commits``."""
    return f"{count} {one if count == 1 else many or one + 's'}"
