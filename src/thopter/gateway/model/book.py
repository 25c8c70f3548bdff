"""The durable account of model calls: one line for each, in small files that the hub reads and lets go.

Every file ("book") is written by one gateway process and never changed afterwards; a reader keeps, for
each book, how many lines it has counted. So a line is counted once whatever ends in between: lines live
through the death of gateway and hub (written at once, without fsync: the machine's own death may take
the last moments). A full book is followed by another. When nobody reads, the oldest go; how many lines
went with them stands in the first line of the next.
"""

from __future__ import annotations

import logging
import os
import zlib
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct, to_builtins

from thopter.gateway.model.spending import Open, Spending
from thopter.gateway.model.usage import Record

log = logging.getLogger("thopter.gateway")

LINES = 1000  # of one book
BOOKS = 128
_SUFFIX = ".ndjson"


class BookPage(Struct, frozen=True):
    """Lines of a book after a number: ``next`` is the number of the last one; ``current``: it may grow;
    ``lost``: lines that were thrown away before this book began, unread."""

    lines: list[dict[str, Any]]
    next: int
    current: bool
    lost: int = 0


class Books:
    """The books in one folder. One process at a time writes (the gateway holds a lock)."""

    def __init__(self, folder: Path) -> None:
        """Open the folder (made when it is not there). Raises OSError."""
        folder.mkdir(mode=0o700, exist_ok=True)
        self._folder = folder
        self._fd = -1
        self._count = 0
        self._name = ""
        self._broken = False

    def add(self, line: dict[str, Any]) -> None:
        """Write one line. A disk that is full loses it (said once in the log), never the call."""
        try:
            if self._fd < 0 or self._count >= LINES:
                self._begin(int(line.get("at_ms") or 0))
            os.write(self._fd, msgspec.json.encode(line) + b"\n")
            self._count += 1
            self._broken = False
        except OSError as e:
            if not self._broken:
                log.error("model calls can't be written down: %s", e)
            self._broken = True

    def put(self, name: str, lines: list[dict[str, Any]]) -> None:
        """Make a whole book at once; one that is there already stays as it is. Raises OSError."""
        path = self._folder / (name + _SUFFIX)
        if path.exists():
            return
        fresh = path.with_suffix(".new")
        fresh.write_bytes(b"".join(msgspec.json.encode(x) + b"\n" for x in [{"lost": 0}, *lines]))
        fresh.rename(path)

    def names(self) -> list[str]:
        """All books, oldest first."""
        return sorted(p.name.removesuffix(_SUFFIX) for p in self._folder.glob("*" + _SUFFIX))

    def read(self, name: str, after: int, limit: int) -> BookPage:
        """Lines of a book; one that is not there has none."""
        if name not in self.names():
            return BookPage(lines=[], next=after, current=False)
        raw = (self._folder / (name + _SUFFIX)).read_bytes().split(b"\n")[:-1]  # a torn last line is no line
        head, body = raw[:1], raw[1:]
        page = [_line(line) for line in body[after : after + limit]]
        lost = _line(head[0]).get("lost", 0) if head else 0
        number = lost if isinstance(lost, int) else 0
        return BookPage(
            lines=page, next=max(after, after + len(page)), current=name == self._name, lost=number
        )

    def forget(self, name: str) -> bool:
        """Remove a book that has been counted; never the one that is being written."""
        if name == self._name or name not in self.names():
            return False
        (self._folder / (name + _SUFFIX)).unlink(missing_ok=True)
        return True

    def _begin(self, now_ms: int) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
        lost = 0
        for old in self.names()[: -(BOOKS - 1)]:
            lost += self.read(old, 0, 0).lost + len(self.read(old, 0, LINES).lines)
            (self._folder / (old + _SUFFIX)).unlink(missing_ok=True)
        last = max((int(n[:15]) for n in self.names() if n[:15].isdecimal()), default=0)
        name = f"{max(now_ms, last + 1):015d}-{os.urandom(4).hex()}"
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC
        self._fd = os.open(self._folder / (name + _SUFFIX), flags, 0o600)
        os.write(self._fd, msgspec.json.encode({"lost": lost}) + b"\n")
        self._name, self._count = name, 0


def bury(spending: Spending, books: Books) -> None:
    """Put the calls that an earlier process left into a book, each once: the book's name is made of them, so
    that doing it again after a death in between changes nothing."""
    if not spending.orphans:
        return
    lines = [to_builtins(_orphan(call)) for call in spending.orphans if call.told]
    mark = zlib.crc32(msgspec.json.encode(lines))
    try:
        if lines:
            books.put(f"{max(c.at_ms for c in spending.orphans):015d}-{mark:08x}", lines)
    except OSError as e:
        log.error("model calls that were cut off can't be written down: %s", e)
        return  # they stay in the journal
    spending.buried()


def _orphan(call: Open) -> Record:
    return Record(
        seq=0, at_ms=call.at_ms, box=call.who.get("box", ""), run=call.who.get("run", ""), method="POST",
        path="/v1/messages", status=0 if call.cut else 200, ms=0.0,
        error="the gateway ended in the middle of it" if call.cut else "",
        model=call.who.get("model", ""), endpoint=call.who.get("endpoint", ""), tokens=call.told,
    )  # fmt: skip


def _line(raw: bytes) -> dict[str, Any]:
    try:
        found = msgspec.json.decode(raw)
    except msgspec.DecodeError:
        return {}
    return found if isinstance(found, dict) else {}
