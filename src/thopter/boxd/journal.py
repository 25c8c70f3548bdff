"""The journal: numbered facts on disk that the hub reads by cursor; bounded, gaps are said.

NDJSON segments named by their first number. Numbers only grow, also over restarts. A line is
written whole by one write(2) without fsync: it survives the death of boxd, not that of the
machine. A torn last line is dropped at start. When the disk is full the record is lost and its
number stays unused, so that readers see a gap instead of nothing.
"""

from __future__ import annotations

import os
import time
from typing import Any, Callable, Dict, Iterator, List, NamedTuple, Optional, Set, Tuple

from thopter.boxd import wire
from thopter.boxd.loop import log

_CHUNK = 256 << 10


class Segment(NamedTuple):
    """One file of the journal: the number of its first record, and its path."""

    first: int
    path: str


class Cursor:
    """Where a reader is: the number of the last record it has, and where the next one begins."""

    __slots__ = ("after", "offset", "segment")

    def __init__(self, after: int) -> None:
        self.after = after
        self.segment = -1  # first number of the segment that ``offset`` belongs to
        self.offset = 0


class Journal:
    """Appends records and reads them back. ``listeners`` are called after each append."""

    def __init__(self, folder: str, segment_size: int, segments: int) -> None:
        """Open or make the journal in ``folder``; raises OSError."""
        os.makedirs(folder, mode=0o700, exist_ok=True)
        self._folder = folder
        self._limit, self._most = max(4096, segment_size), max(2, segments)
        self.listeners: Set[Callable[[], None]] = set()
        self._segments = self._list()
        self.last = 0  # number of the newest record
        self._fd = -1
        self._size = 0
        self._losing = False
        self._recover()

    def append(self, kind: str, **facts: Any) -> int:
        """Record a fact and return its number. Never raises for a full disk (a gap follows)."""
        self.last += 1
        number = self.last
        record = {"seq": number, "at_ms": time.time_ns() // 1_000_000, "kind": kind, **facts}
        line = wire.dumps(record) + b"\n"
        try:
            if self._fd < 0 or self._size + len(line) > self._limit:
                self._rotate(number)
            self._write(line)
            self._losing = False
        except OSError as e:
            if not self._losing:  # said once until it works again: this log must not grow without end
                log(f"journal record {number} ({kind}) is lost: {e.strerror}")
            self._losing = True
        for listener in list(self.listeners):
            listener()
        return number

    @property
    def first(self) -> int:
        """The number of the oldest record that can still be there."""
        return self._segments[0].first if self._segments else self.last + 1

    def read(self, cursor: Cursor, kinds: Optional[Set[str]]) -> Iterator[Dict[str, Any]]:
        """Yield some of the records after the cursor (one look at the disk); it moves past each
        record as that is yielded. Call again while ``cursor.after < last``.

        Missing numbers come as ``{"kind": "gap", "first", "last", "count", "seq"}``. A cursor
        beyond the end (the journal was lost) gives a gap with ``reset`` and starts over.
        """
        if cursor.after > self.last:
            gap = _gap(self.last + 1, cursor.after)
            cursor.after, cursor.segment = 0, -1
            yield {**gap, "seq": 0, "reset": True}
        looked = 0
        for line, end in self._lines(cursor):
            looked += 1
            record = _record(line)
            number = record["seq"] if record else 0
            if number > cursor.after + 1:
                gap = _gap(cursor.after + 1, number - 1)
                cursor.after = number - 1
                yield gap
            cursor.offset = end
            if record and number > cursor.after:
                cursor.after = number
                if kinds is None or record["kind"] in kinds:
                    yield record
        if not looked and cursor.after < self.last and not self._next_segment(cursor):
            gap = _gap(cursor.after + 1, self.last)  # the newest ones could not be written
            cursor.after = self.last
            yield gap

    def scan(self, kind_prefix: str) -> Iterator[Dict[str, Any]]:
        """Yield all records whose kind begins so (used once at start; cheap by a first look)."""
        needle = b'"kind":"' + kind_prefix.encode("ascii")
        cursor = Cursor(self.first - 1)
        while True:
            looked = 0
            for line, end in self._lines(cursor):
                looked += 1
                cursor.offset = end
                record = _record(line) if needle in line else None
                if record is not None:
                    yield record
            if not looked and not self._next_segment(cursor):
                return

    def close(self) -> None:
        """Close the file being written."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _list(self) -> List[Segment]:
        found = []
        for name in os.listdir(self._folder):
            stem, dot, ext = name.partition(".")
            if ext == "ndjson" and dot and stem.isdigit():
                found.append(Segment(int(stem), os.path.join(self._folder, name)))
        return sorted(found)

    def _recover(self) -> None:
        if not self._segments:
            return
        newest = self._segments[-1]
        self.last = newest.first - 1
        with open(newest.path, "rb") as file:
            content = file.read()
        whole = content.rfind(b"\n") + 1
        for line in content[:whole].splitlines():
            record = _record(line)
            if record is not None:
                self.last = max(self.last, record["seq"])
        self._fd = os.open(newest.path, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)
        if whole < len(content):
            log(f"dropped a torn journal line of {len(content) - whole} bytes")
            os.ftruncate(self._fd, whole)
        self._size = whole

    def _rotate(self, first: int) -> None:
        path = os.path.join(self._folder, f"{first:020d}.ndjson")
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        self.close()
        self._fd, self._size = fd, 0
        self._segments.append(Segment(first, path))
        while len(self._segments) > self._most:
            try:
                os.unlink(self._segments.pop(0).path)
            except FileNotFoundError:
                continue

    def _write(self, line: bytes) -> None:
        written = 0
        try:
            written = os.write(self._fd, line)
            if written < len(line):
                raise OSError(28, os.strerror(28))
        except OSError:
            if written:  # half a line would spoil the next one
                os.ftruncate(self._fd, self._size)
            raise
        self._size += written

    def _place(self, cursor: Cursor) -> str:
        """The file to read on in; sets the cursor's offset when it enters another one."""
        entered: Optional[Segment] = None
        for segment in self._segments:
            if segment.first == cursor.segment:
                return segment.path
            if entered is None or segment.first <= cursor.after + 1:
                entered = segment
        if entered is None:
            return ""
        cursor.segment, cursor.offset = entered.first, 0
        return entered.path

    def _next_segment(self, cursor: Cursor) -> bool:
        for segment in self._segments:
            if segment.first > cursor.segment:
                cursor.segment, cursor.offset = segment.first, 0
                return True
        return False

    def _lines(self, cursor: Cursor) -> Iterator[Tuple[bytes, int]]:
        """Yield (line, offset behind it) of one chunk of whole lines at the cursor."""
        path = self._place(cursor)
        at, size = cursor.offset, _CHUNK
        try:
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return
        try:
            chunk = os.pread(fd, size, at)
            while len(chunk) == size and b"\n" not in chunk:
                size *= 2
                chunk = os.pread(fd, size, at)
        finally:
            os.close(fd)
        start = 0
        while True:
            end = chunk.find(b"\n", start) + 1
            if not end:
                return
            yield chunk[start:end], at + end
            start = end


def _gap(first: int, last: int) -> Dict[str, Any]:
    return {"kind": "gap", "seq": last, "first": first, "last": last, "count": last - first + 1}


def _record(line: bytes) -> Optional[Dict[str, Any]]:
    """Parse a line; None when it is not a record (it is skipped, and its number becomes a gap)."""
    try:
        body = wire.loads(line)
    except ValueError:
        return None
    if not isinstance(body, dict) or not isinstance(body.get("kind"), str):
        return None
    number = body.get("seq")
    return body if isinstance(number, int) and not isinstance(number, bool) and number > 0 else None
