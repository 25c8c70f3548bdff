"""Anchors: where the audit's chain ended at moments past, in a file beside the database.

One line each, ``NUMBER HASH MILLISECONDS``; mode 0600, each synced to the disk. A database that was cut,
exchanged or put back to an older state no longer agrees with them.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import threading
from pathlib import Path

from msgspec import Struct

from thopter.kit.durable import write_private
from thopter.store.audit_chain import Anchor

KEPT = 1000
_MOST = 4000
_LONGEST = 128  # bytes of a line
_LINE = re.compile(r"([0-9]{1,18}) ([0-9a-f]{64}) ([0-9]{1,18})")


class Found(Struct, frozen=True):
    """What the file says. ``bad``: lines that are none; a last one cut short by the machine's end is not
    counted."""

    anchors: tuple[Anchor, ...]
    bad: int
    there: bool


class Anchors:
    """The file; its calls block, and may be made by several threads at once."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = threading.Lock()  # a file that is being begun is not one that was there
        self._lines = -1

    def read(self) -> Found:
        """Everything in it, in order."""
        with self._lock:
            return self._read()

    def _read(self) -> Found:
        try:
            text = self.path.read_bytes().decode("ascii", "replace")
        except FileNotFoundError:
            return Found((), 0, False)
        *whole, cut = text.split("\n")
        found = [_LINE.fullmatch(line) for line in whole]
        anchors = tuple(Anchor(int(m[1]), m[2], int(m[3])) for m in found if m)
        self._lines = (
            len(whole) + (1 if cut else 0) or self._lines
        )  # who looks at an emptied one hides nothing
        return Found(anchors, sum(m is None for m in found), True)

    def add(self, anchor: Anchor) -> bool:
        """Write one more; on the disk when this returns. True when the file had to be begun anew, since
        what this object knows to have been in it is gone."""
        with self._lock:
            return self._add(anchor)

    def _add(self, anchor: Anchor) -> bool:
        if self._lines < 0:
            self._read()
        if self._lines > _MOST:
            self._shorten()
        line = f"{anchor.seq} {anchor.hash} {anchor.at_ms}\n".encode()
        fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            size = _mended(fd)
            if os.write(fd, line) != len(line):
                os.ftruncate(fd, size)
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            os.fsync(fd)
        finally:
            os.close(fd)
        anew = self._lines > 0 and not size
        if self._lines <= 0 or anew:
            _sync_folder(self.path.parent)
        self._lines = 1 if anew else max(self._lines, 0) + 1
        return anew

    def _shorten(self) -> None:
        """Keep the first and the newest; those between say nothing that these do not."""
        kept = self._read().anchors
        kept = (*kept[:1], *kept[1:][-KEPT:])
        write_private(self.path, "".join(f"{a.seq} {a.hash} {a.at_ms}\n" for a in kept).encode())
        self._lines = len(kept)


def _mended(fd: int) -> int:
    """Take off a last line that the end of the machine, or of the disk, cut short; return the size."""
    size = os.fstat(fd).st_size
    tail = os.pread(fd, _LONGEST, max(size - _LONGEST, 0))
    if tail and not tail.endswith(b"\n"):
        if b"\n" not in tail and size > len(tail):
            return size + os.write(fd, b"\n")  # no line of ours: left, and counted as bad
        size -= len(tail) - (tail.rfind(b"\n") + 1)
        os.ftruncate(fd, size)
    return size


def _sync_folder(folder: Path) -> None:
    with contextlib.suppress(OSError):  # some file systems can't; the line itself is synced
        fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)
