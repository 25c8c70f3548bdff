"""The tail op: complete lines of growing files below a folder, from where a cursor left off."""

from __future__ import annotations

import os
import stat
from typing import Any, Dict, List, Optional

from thopter.boxd import fields
from thopter.boxd.box import Box
from thopter.boxd.conn import Channel, Handler
from thopter.boxd.fields import OpError, Request, bad
from thopter.boxd.globs import Glob
from thopter.boxd.watcher import Watcher
from thopter.boxd.wire import MESSAGES, to_bytes, to_text

MAX_LINE = 8 << 20  # what is beyond is left out (``truncated``)
_PIECE = 128 << 10  # read at once; as JSON it always fits into a frame
_OPEN = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_NOCTTY


class _File:
    """How far one file has been sent. ``seen`` > ``offset``: that far there is no line end."""

    __slots__ = ("inode", "line_end", "offset", "seen", "sent")

    def __init__(self, offset: int) -> None:
        self.inode = 0
        self.begin(offset)

    @property
    def begun(self) -> bool:
        """True when something of it was sent."""
        return self.offset > 0 or self.line_end >= 0

    def begin(self, offset: int) -> None:
        self.offset = self.seen = self.sent = offset
        self.line_end = -1  # of a line that is sent in pieces, ``sent`` is where it got to


class Tail(Handler):
    """Sends lines as there is room; reads nothing ahead and holds at most one piece.

    A line longer than a piece comes in several messages with ``more``: the last text of one goes
    on with the first of the file's next. ``offset`` is behind the last complete line sent, so a
    reader that comes back with it misses nothing and gets nothing twice.
    """

    def __init__(self, box: Box, channel: Channel, request: Request) -> None:
        self._box, self._channel = box, channel
        self._root = fields.path(request, "root")
        self._follow = fields.flag(request, "follow", False)
        self._cursors = _cursors(request)
        self._files: Dict[bytes, _File] = {}
        self._dirty: Dict[bytes, None] = {}  # in the order in which they will be looked at
        self._vanished: List[bytes] = []  # files whose cursors are void, not yet said
        self._unfinished = b""  # a file of which a line in pieces is under way: it goes first
        self._scheduled = self._over = False
        glob = Glob(fields.string(request, "glob"))
        self._watcher = Watcher(box, self._root, glob, self._scanned, self._changed)
        self._watcher.start()
        if not self._follow:
            self._watcher.stop()
        self._schedule()

    def on_room(self) -> None:
        """See :class:`Handler`."""
        self._schedule()

    def on_cancel(self) -> None:
        """See :class:`Handler`."""
        self.on_lost()
        self._channel.fail(OpError("cancelled", "cancelled"))

    def on_lost(self) -> None:
        """See :class:`Handler`."""
        self._over = True
        self._watcher.stop()

    def _scanned(self, names: List[bytes]) -> None:
        there = set(names)
        for name in [n for n in self._files if n not in there]:
            self._dirty.pop(name, None)
            if self._files.pop(name).begun:
                self._vanished.append(name)
                self._schedule()
        for name in names:
            self._changed(name)

    def _changed(self, name: bytes) -> None:
        self._dirty[name] = None
        self._schedule()

    def _schedule(self) -> None:
        if not self._scheduled and not self._over:
            self._scheduled = True
            self._box.loop.soon(self._pump)

    def _pump(self) -> None:
        self._scheduled = False
        if self._over:
            return
        looked = 0
        while (self._dirty or self._vanished) and self._channel.room(MESSAGES):
            if self._vanished:
                self._channel.send_counted({"reset": to_text(self._vanished.pop())})
                continue
            name = self._unfinished if self._unfinished in self._dirty else next(iter(self._dirty))
            del self._dirty[name]  # before looking: a change meanwhile enters it again
            if self._advance(name):
                self._dirty[name] = None
            state = self._files.get(name)
            self._unfinished = name if state is not None and state.line_end >= 0 else b""
            looked += 1
            if looked >= 16:  # others are served in between
                self._schedule()
                return
        if not self._dirty and not self._vanished and not self._follow:
            self._over = True
            cursors = {to_text(name): file.offset for name, file in self._files.items()}
            self._channel.end({"cursors": cursors})

    def _advance(self, name: bytes) -> bool:
        """Send the next piece of one file; True when there may be more."""
        try:
            fd = os.open(os.path.join(self._root, name), _OPEN)
        except OSError:
            return False  # gone, or not for us; a later change brings it back
        try:
            found = os.fstat(fd)
            if not stat.S_ISREG(found.st_mode):
                return False
            file = self._files.get(name)
            if file is None:
                file = self._files[name] = _File(self._cursors.pop(name, 0))
            if found.st_size < file.offset or file.inode not in (0, found.st_ino):
                if file.begun:
                    self._channel.send_counted({"reset": to_text(name)})
                file.begin(0)
            file.inode = found.st_ino
            if file.line_end >= 0:
                return self._send_piece(fd, name, file)
            return self._look(fd, name, file)
        finally:
            os.close(fd)

    def _look(self, fd: int, name: bytes, file: _File) -> bool:
        chunk = os.pread(fd, _PIECE, file.seen)
        if file.seen == file.offset:
            end = chunk.rfind(b"\n")
            if end >= 0:
                file.begin(file.offset + end + 1)
                self._send(name, file, chunk[:end].split(b"\n"))
                return True
        else:
            end = chunk.find(b"\n")
            if end >= 0:
                file.line_end, file.sent = file.seen + end, file.offset
                return True
        file.seen += len(chunk)
        return len(chunk) == _PIECE

    def _send_piece(self, fd: int, name: bytes, file: _File) -> bool:
        stop = min(file.line_end, file.offset + MAX_LINE)
        piece = os.pread(fd, min(_PIECE, stop - file.sent), file.sent)
        file.sent += len(piece)
        if piece and file.sent < stop:
            self._send(name, file, [piece], more=True)
            return True
        cut = file.line_end > stop
        file.begin(file.line_end + 1)
        self._send(name, file, [piece], truncated=cut)
        return True

    def _send(self, name: bytes, file: _File, lines: List[bytes], **extra: bool) -> None:
        self._watcher.activity()
        body: Dict[str, Any] = {"file": to_text(name), "offset": file.offset, "truncated": False}
        body["lines"] = [to_text(line) for line in lines]
        body.update(extra)
        self._channel.send_counted(body)


def _cursors(request: Request) -> Dict[bytes, int]:
    raw: Optional[Any] = request.get("cursors")
    if raw is None:
        return {}
    if not isinstance(raw, dict):
        raise bad("cursors must be an object of numbers")
    cursors: Dict[bytes, int] = {}
    for name in raw:
        try:
            cursors[to_bytes(name)] = fields.integer(raw, name, None, 0, 1 << 62)
        except ValueError:
            raise bad("cursors holds a name that stands for no bytes") from None
    return cursors
