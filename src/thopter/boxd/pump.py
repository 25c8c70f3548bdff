"""Bytes between descriptors and channels: sources send as there is credit, sinks grant as they write."""

from __future__ import annotations

import array
import fcntl
import os
import termios
from collections import deque
from typing import Callable, Deque

from thopter.boxd.conn import Channel
from thopter.boxd.loop import READ, WRITE, Loop


class Source:
    """Reads a descriptor and sends it as one stream; holds nothing in memory.

    ``ended()`` is called once at the end of the stream (an error counts as the end). It is
    watched only while there is room, so that a stalled reader costs no wake-ups.
    """

    def __init__(self, loop: Loop, fd: int, channel: Channel, stream: int, ended: Callable[[], None]) -> None:
        os.set_blocking(fd, False)
        self.fd = fd
        self.open = True
        self._loop, self._channel, self._stream, self._ended = loop, channel, stream, ended
        self._watched = False
        self._left = -1  # bytes until we stop; -1 for no bound
        self.resume()

    def resume(self) -> None:
        """Go on when there is room again; harmless otherwise."""
        if self.open and not self._watched and self._channel.room(self._stream):
            self._loop.watch(self.fd, READ, self._ready)
            self._watched = True

    def finish(self) -> None:
        """Send what is in the pipe at this moment and then stop, even if others hold it open."""
        if not self.open:
            return
        count = array.array("i", [0])
        fcntl.ioctl(self.fd, termios.FIONREAD, count)
        self._left = count[0]
        if self._left == 0:
            self._end()
        else:
            self.resume()

    def close(self) -> None:
        """Stop at once without calling ``ended``."""
        if self.open:
            self.open = False
            self._pause()
            os.close(self.fd)

    def _end(self) -> None:
        if self.open:
            self.close()
            self._ended()

    def _pause(self) -> None:
        if self._watched:
            self._watched = False
            self._loop.forget(self.fd)

    def _ready(self, _events: int) -> None:
        room = self._channel.room(self._stream)
        if not room:
            self._pause()
            return
        if self._left >= 0:
            room = min(room, self._left)
        try:
            content = os.read(self.fd, room)
        except BlockingIOError:
            return
        except OSError:  # EIO: the last holder of a terminal's other side is gone; ECONNRESET
            content = b""
        if not content:
            self._end()
            return
        self._channel.send_data(self._stream, content)
        if self._left >= 0:
            self._left -= len(content)
            if self._left == 0:
                self._end()


class Sink:
    """Writes received bytes to a descriptor; credit goes back only for what was written.

    When the reader of the descriptor goes away, the rest is discarded (and acknowledged).
    ``closed()`` is called once when it is closed, for whatever reason but :meth:`close`.
    """

    def __init__(
        self, loop: Loop, fd: int, channel: Channel, stream: int, closed: Callable[[], None]
    ) -> None:
        os.set_blocking(fd, False)
        self.fd = fd
        self.open = True
        self._loop, self._channel, self._stream, self._closed = loop, channel, stream, closed
        self._queue: Deque[bytes] = deque()
        self._watched = False
        self._ending = False

    def feed(self, content: bytes) -> None:
        """Take bytes that arrived."""
        if not self.open or self._ending:
            self._channel.consumed(self._stream, len(content))
            return
        if content:
            self._queue.append(content)
            if not self._watched:
                self._write()

    def end(self) -> None:
        """Close once everything is written."""
        if self.open and not self._ending:
            self._ending = True
            if not self._queue:
                self._shut()

    def close(self) -> None:
        """Close at once; what is queued is dropped."""
        if self.open:
            self.open = False
            if self._watched:
                self._loop.forget(self.fd)
                self._watched = False
            os.close(self.fd)
            for content in self._queue:
                self._channel.consumed(self._stream, len(content))
            self._queue.clear()

    def _shut(self) -> None:
        self.close()
        self._closed()

    def _ready(self, _events: int) -> None:
        self._write()

    def _write(self) -> None:
        queue = self._queue
        while queue:
            try:
                sent = os.write(self.fd, queue[0])
            except BlockingIOError:
                break
            except OSError:
                self._shut()
                return
            self._channel.consumed(self._stream, sent)
            if sent < len(queue[0]):
                queue[0] = queue[0][sent:]
                break
            queue.popleft()
        if queue and not self._watched:
            self._loop.watch(self.fd, WRITE, self._ready)
            self._watched = True
        elif not queue:
            if self._watched:
                self._loop.forget(self.fd)
                self._watched = False
            if self._ending:
                self._shut()
