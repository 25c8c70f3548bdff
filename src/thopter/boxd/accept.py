"""Taking connections off a listening socket, also when descriptors run out for a while."""

from __future__ import annotations

import socket
from typing import Callable

from thopter.boxd.loop import READ, Loop, describe, log

_PAUSE = 0.1  # seconds to leave the queue alone when accept fails


class Acceptor:
    """Calls ``take(sock)`` for each connection. A failing accept (too many descriptors) is said
    once and tried again after a pause; it neither ends the listener nor spins."""

    def __init__(self, loop: Loop, listener: socket.socket, take: Callable[[socket.socket], None]) -> None:
        self._loop, self._listener, self._take = loop, listener, take
        self._open, self._failing = True, False
        listener.setblocking(False)
        self._fd = listener.fileno()
        loop.watch(self._fd, READ, self._ready)

    def close(self) -> None:
        """Stop listening."""
        if self._open:
            self._open = False
            self._loop.forget(self._fd)
            self._listener.close()

    def _ready(self, _events: int) -> None:
        try:
            sock, _ = self._listener.accept()
        except (BlockingIOError, ConnectionError):
            return
        except OSError as e:
            if not self._failing:
                log("a connection can't be taken: " + describe(e))
            self._failing = True
            self._loop.forget(self._fd)
            self._loop.later(_PAUSE, self._again)
            return
        self._failing = False
        self._take(sock)

    def _again(self) -> None:
        if self._open:
            self._loop.watch(self._fd, READ, self._ready)
