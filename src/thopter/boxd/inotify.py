"""One inotify descriptor for all who watch folders in this boxd; there only while somebody does."""

from __future__ import annotations

import ctypes
import errno
import os
import struct
from typing import Callable, Dict, Optional

from thopter.boxd.loop import READ, Loop

MODIFY = 0x2
MOVED_FROM = 0x40
MOVED_TO = 0x80
CREATE = 0x100
DELETE = 0x200
DELETE_SELF = 0x400
MOVE_SELF = 0x800
OVERFLOW = 0x4000
IGNORED = 0x8000
IS_FOLDER = 0x40000000
_MASK = MODIFY | MOVED_FROM | MOVED_TO | CREATE | DELETE | DELETE_SELF | MOVE_SELF
_ONLY_FOLDERS = 0x01000000
_FLAGS = os.O_NONBLOCK | os.O_CLOEXEC
_EVENT = struct.Struct("=iIII")
_libc = ctypes.CDLL(None, use_errno=True)

Listener = Callable[[int, int, bytes], None]


class Inotify:
    """Shared watches of folders: ``listener(watch, mask, name)`` is called for each event."""

    def __init__(self, loop: Loop, enabled: bool) -> None:
        self._loop, self._enabled = loop, enabled
        self._fd = -1
        self._listeners: Dict[int, Dict[object, Listener]] = {}

    def add(self, path: bytes, owner: object, listener: Listener) -> int:
        """Watch a folder; the same folder always has the same number. Raises OSError (also where
        the system has no inotify or none left)."""
        if self._fd < 0:
            self._open()
        watch = int(_libc.inotify_add_watch(self._fd, path, _MASK | _ONLY_FOLDERS))
        if watch < 0:
            error = ctypes.get_errno()
            self._close_if_unused()
            raise OSError(error, os.strerror(error))
        self._listeners.setdefault(watch, {})[owner] = listener
        return watch

    def remove(self, watch: int, owner: object) -> None:
        """Stop telling ``owner`` of that folder. Harmless when it is not watched any more."""
        listeners = self._listeners.get(watch)
        if listeners is None:
            return
        listeners.pop(owner, None)
        if not listeners:
            del self._listeners[watch]
            _libc.inotify_rm_watch(self._fd, watch)
        self._close_if_unused()

    def _open(self) -> None:
        if not self._enabled:
            raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
        fd = int(_libc.inotify_init1(_FLAGS))
        if fd < 0:
            error = ctypes.get_errno()
            raise OSError(error, os.strerror(error))
        self._fd = fd
        self._loop.watch(fd, READ, self._ready)

    def _close_if_unused(self) -> None:
        if not self._listeners and self._fd >= 0:
            self._loop.forget(self._fd)
            os.close(self._fd)
            self._fd = -1

    def _ready(self, _events: int) -> None:
        try:
            raw = os.read(self._fd, 1 << 16)
        except BlockingIOError:
            return
        at = 0
        while at + _EVENT.size <= len(raw):
            watch, mask, _cookie, length = _EVENT.unpack_from(raw, at)
            at += _EVENT.size
            name = raw[at : at + length].rstrip(b"\0")
            at += length
            self._tell(watch, mask, name)
        self._close_if_unused()

    def _tell(self, watch: int, mask: int, name: bytes) -> None:
        if mask & OVERFLOW:  # events were lost: everybody must look for himself
            everybody = {
                owner: (w, call) for w, one in self._listeners.items() for owner, call in one.items()
            }
            for known, call in everybody.values():
                call(known, mask, b"")
            return
        listeners: Optional[Dict[object, Listener]] = self._listeners.get(watch)
        for call in list(listeners.values()) if listeners else ():
            call(watch, mask, name)
        if mask & IGNORED:
            self._listeners.pop(watch, None)
