"""Noticing that files below a folder changed: by inotify, or by looking again where there is none."""

from __future__ import annotations

import os
from typing import Callable, Dict, List, Optional

from thopter.boxd import inotify
from thopter.boxd.box import Box
from thopter.boxd.globs import Glob, find
from thopter.boxd.loop import Timer, log

_MAX_WATCHES = 4096
_FASTEST, _SLOWEST = 0.2, 2.0  # seconds between two looks without inotify


class Watcher:
    """Tells which files of ``root`` that match ``glob`` may have changed; the root may be missing.

    ``scanned(names)`` is called after every look at the whole tree (the first one within
    :meth:`start`), ``changed(name)`` for single files in between. False alarms are possible,
    missed changes are not. Without inotify it looks again after 0.2 to 2 seconds, and at every
    new record of the journal (a hook often means that the transcript has grown).
    """

    def __init__(
        self,
        box: Box,
        root: bytes,
        glob: Glob,
        scanned: Callable[[List[bytes]], None],
        changed: Callable[[bytes], None],
    ) -> None:
        self._box, self._root, self._glob = box, root, glob
        self._scanned, self._changed = scanned, changed
        self._folders: Dict[int, Optional[bytes]] = {}  # watch -> relative folder; None: above root
        self._timer: Optional[Timer] = None
        self._pause = _FASTEST
        self._polling = self._scheduled = self._over = False

    def start(self) -> None:
        """Look at everything and go on watching."""
        self._scan()

    def stop(self) -> None:
        """Watch no more."""
        self._over = True
        if self._timer is not None:
            self._timer.cancel()
        self._box.journal.listeners.discard(self.look_again)
        folders, self._folders = self._folders, {}
        for watch in folders:
            self._box.inotify.remove(watch, self)

    def look_again(self) -> None:
        """Look at the whole tree soon."""
        if not self._scheduled and not self._over:
            self._scheduled = True
            self._box.loop.soon(self._scan)

    def activity(self) -> None:
        """There was a change: when polling, look more often again."""
        self._pause = _FASTEST

    def _scan(self) -> None:
        self._scheduled = False
        if self._over:
            return
        if not self._polling and not os.path.isdir(self._root):
            self._watch_above()
        names = find(self._root, self._glob, None if self._polling else self._enter)
        self._scanned(names)
        if self._polling and not self._over:
            self._pause = min(_SLOWEST, self._pause * 1.3)
            if self._timer is not None:
                self._timer.cancel()
            self._timer = self._box.loop.later(self._pause, self._scan)

    def _enter(self, folder: bytes) -> None:
        if not self._polling:
            self._add(os.path.join(self._root, folder) if folder else self._root, folder)

    def _watch_above(self) -> None:
        """The root is not there: wait for its nearest ancestor that is to get a new entry."""
        above = os.path.dirname(self._root.rstrip(b"/")) or b"/"
        while not os.path.isdir(above) and above != b"/":
            above = os.path.dirname(above)
        self._add(above, None)
        # It may have come to be between the two looks.
        below = self._root[len(above.rstrip(b"/")) + 1 :].split(b"/", 1)[0]
        if os.path.isdir(os.path.join(above, below)) and not os.path.isdir(self._root):
            self.look_again()

    def _add(self, path: bytes, folder: Optional[bytes]) -> None:
        try:
            if len(self._folders) >= _MAX_WATCHES:
                raise OSError(28, "too many folders")
            self._folders[self._box.inotify.add(path, self, self._event)] = folder
        except (FileNotFoundError, NotADirectoryError):
            return  # it went away; whoever watches its parent hears of it
        except OSError as e:
            if not self._polling:
                log(f"no inotify for {path!r} ({e.strerror}): looking again and again instead")
                self._polling = True
                self._box.journal.listeners.add(self.look_again)

    def _event(self, watch: int, mask: int, name: bytes) -> None:
        if watch not in self._folders:
            return
        folder = self._folders[watch]
        if mask & inotify.IGNORED:
            del self._folders[watch]
        gone = inotify.OVERFLOW | inotify.DELETE_SELF | inotify.MOVE_SELF | inotify.IGNORED
        if folder is None or mask & gone or (mask & inotify.IS_FOLDER):
            self.look_again()
        elif name:
            relative = folder + b"/" + name if folder else name
            if not self._glob.matches(relative):
                return
            if mask & (inotify.DELETE | inotify.MOVED_FROM):
                self.look_again()
            else:
                self._changed(relative)
