"""Many byte streams over the one pipe between a virtual machine and its keeper; used on both sides.

A frame is ``kind (1) stream (4) length (2)`` and its content. Streams opened by the keeper have even
numbers, those of the guest odd ones. A stream is opened towards a *door* (a port, or 0 for boxd), ends
in each direction by itself, and has a window of credit, so that one slow reader holds up nobody else.
Whatever the other side sends, this side holds at most a window for each of ``MOST`` streams: all
else breaks the pipe, by :class:`BrokenPipe`. Python 3.9, standard library only: it runs in the guest, too.
"""

from __future__ import annotations

import os
import select
import socket
import struct
from collections.abc import Callable

BOXD = 0  # the door that stands for boxd; others are ports
MOST = 512
WINDOW = 128 << 10
CHUNK = 32 << 10
_HIGH = 1 << 20  # no stream is read while as much waits to go into the pipe
_DEAF = 2 << 20  # who does not read while so much waits for it is given up
_HEAD = struct.Struct(">BIH")
_NUMBER = struct.Struct(">I")
_OPEN, _DATA, _END, _RESET, _CREDIT, _NOTE = b"ODERCN"
_READ, _WRITE, _GONE = select.POLLIN, select.POLLOUT, select.POLLHUP | select.POLLERR | select.POLLNVAL

Opener = Callable[[int], socket.socket]


class BrokenPipe(Exception):
    """The other side is gone, or does not keep to the rules."""


class _Stream:
    """A socket of this side and what is under way to it. ``room``: what may still be sent from it."""

    def __init__(self, number: int, sock: socket.socket) -> None:
        self.number, self.sock, self.fd = number, sock, sock.fileno()
        self.out = bytearray()
        self.room, self.given = WINDOW, WINDOW  # what we may send; what the other side may
        self.taken = 0
        self.reading = True  # our socket may still say something
        self.writing = True  # the other side may still say something
        self.shut = False  # our socket was told that it will not
        self.events = 0  # what it is polled for; 0: it is not (a hang-up would be told for ever)


class Mux:
    """See the module docstring. ``opener`` makes the (connected) socket for a stream that the other side
    opens towards a door, or raises OSError; ``note`` is called with what the other side notes."""

    def __init__(self, pipe: int, first: int, opener: Opener, note: Callable[[bytes], None]) -> None:
        os.set_blocking(pipe, False)
        self._pipe, self._next, self._opener, self._note = pipe, first, opener, note
        self._poll = select.poll()
        self._streams: dict[int, _Stream] = {}
        self._by_fd: dict[int, _Stream] = {}
        self._others: dict[int, Callable[[], None]] = {}
        self._in, self._out = bytearray(), bytearray()
        self._full = False
        self._theirs = 0
        self._poll.register(pipe, _READ)

    def watch(self, fd: int, call: Callable[[], None]) -> None:
        """Call ``call`` whenever ``fd`` can be read."""
        self._others[fd] = call
        self._poll.register(fd, _READ)

    def attach(self, sock: socket.socket, door: int) -> None:
        """Open a stream for ``sock`` towards a door of the other side. The socket is ours from now on."""
        if len(self._streams) - self._theirs >= MOST:
            sock.close()
            return
        self._add(self._next, sock)
        self._send(_OPEN, self._next, _NUMBER.pack(door))
        self._next = (self._next + 2) & 0x7FFFFFFF

    def note(self, content: bytes) -> None:
        """Send a note to the other side."""
        self._send(_NOTE, 0, content)

    def turn(self, seconds: float) -> None:
        """Wait for something to do, at most ``seconds``, and do it. Raises BrokenPipe."""
        for fd, events in self._poll.poll(seconds * 1000):
            if fd == self._pipe:
                self._serve_pipe(events)
            elif fd in self._others:
                self._others[fd]()
            elif fd in self._by_fd:
                self._serve(self._by_fd[fd], events)
        self._flush()

    # ------------------------------------------------------------------------------ the pipe

    def _serve_pipe(self, events: int) -> None:
        if events & _READ:
            try:
                data = os.read(self._pipe, 1 << 16)
            except BlockingIOError:
                return
            except OSError as e:
                raise BrokenPipe(str(e)) from None
            if not data:
                raise BrokenPipe("the other side is gone")
            self._in += data
            self._take()
        elif events & _GONE:
            raise BrokenPipe("the other side is gone")

    def _take(self) -> None:
        data, at = self._in, 0
        while len(data) - at >= _HEAD.size:
            kind, number, length = _HEAD.unpack_from(data, at)
            if length > CHUNK:
                raise BrokenPipe(f"a frame of {length} bytes")
            end = at + _HEAD.size + length
            if len(data) < end:
                break
            self._frame(kind, number, bytes(data[at + _HEAD.size : end]))
            at = end
        del data[:at]

    def _frame(self, kind: int, number: int, content: bytes) -> None:
        if kind == _NOTE:
            self._note(content)
            return
        if kind == _OPEN:
            self._opened(number, content)
            return
        stream = self._streams.get(number)
        if stream is None:
            if kind not in (_DATA, _END, _RESET, _CREDIT):
                raise BrokenPipe(f"a frame of unknown kind {kind}")
            return  # it was closed here meanwhile
        if kind == _DATA:
            stream.given -= len(content)
            if stream.given < 0 or not stream.writing:
                raise BrokenPipe("more was sent than there was credit for")
            stream.out += content
        elif kind == _END:
            stream.writing = False
        elif kind == _RESET:
            self._close(stream, tell=False)
            return
        elif kind == _CREDIT and len(content) == _NUMBER.size:
            stream.room += _NUMBER.unpack(content)[0]
            if stream.room > WINDOW:
                raise BrokenPipe("credit for more than was sent")
        else:
            raise BrokenPipe(f"a frame of unknown kind {kind}")
        self._write(stream)

    def _opened(self, number: int, content: bytes) -> None:
        if number in self._streams or (number ^ self._next) & 1 == 0 or len(content) != _NUMBER.size:
            raise BrokenPipe(f"stream {number} can't be opened")
        if self._theirs >= MOST:
            self._send(_RESET, number, b"")
            return
        try:
            sock = self._opener(_NUMBER.unpack(content)[0])
        except OSError:
            self._send(_RESET, number, b"")
            return
        self._theirs += 1
        self._add(number, sock)

    def _send(self, kind: int, number: int, content: bytes) -> None:
        self._out += _HEAD.pack(kind, number, len(content)) + content

    def _flush(self) -> None:
        if len(self._out) > _DEAF:
            raise BrokenPipe("the other side does not read")
        while self._out:
            try:
                sent = os.write(self._pipe, self._out[: 1 << 16])
            except BlockingIOError:
                break
            except OSError as e:
                raise BrokenPipe(str(e)) from None
            del self._out[:sent]
        self._poll.modify(self._pipe, _READ | (_WRITE if self._out else 0))
        full = len(self._out) > _HIGH
        if full != self._full:
            self._full = full
            for stream in list(self._streams.values()):
                self._settle(stream)

    # --------------------------------------------------------------------------- the streams

    def _add(self, number: int, sock: socket.socket) -> None:
        sock.setblocking(False)
        stream = _Stream(number, sock)
        self._streams[number] = self._by_fd[stream.fd] = stream
        self._settle(stream)

    def _serve(self, stream: _Stream, events: int) -> None:
        if events & _WRITE:
            self._write(stream)
        if stream.sock.fileno() < 0:
            return
        if stream.reading and stream.room and len(self._out) <= _HIGH:
            if events & (_READ | _GONE):
                self._read(stream)
        elif events & _GONE:
            self._close(stream, tell=True)

    def _read(self, stream: _Stream) -> None:
        try:
            data = stream.sock.recv(min(CHUNK, stream.room))
        except BlockingIOError:
            return
        except OSError:
            self._close(stream, tell=True)
            return
        if data:
            stream.room -= len(data)
            self._send(_DATA, stream.number, data)
        else:
            stream.reading = False
            self._send(_END, stream.number, b"")
        self._settle(stream)

    def _write(self, stream: _Stream) -> None:
        try:
            while stream.out:
                sent = stream.sock.send(stream.out[:CHUNK])
                del stream.out[:sent]
                stream.taken += sent
        except BlockingIOError:
            pass
        except OSError:
            self._close(stream, tell=True)
            return
        if stream.taken >= WINDOW // 2:
            stream.given += stream.taken
            self._send(_CREDIT, stream.number, _NUMBER.pack(stream.taken))
            stream.taken = 0
        if not stream.out and not stream.writing and not stream.shut:
            stream.shut = True  # once: where both ends are closed, a second time is an error
            try:
                stream.sock.shutdown(socket.SHUT_WR)
            except OSError:
                self._close(stream, tell=True)
                return
        self._settle(stream)

    def _settle(self, stream: _Stream) -> None:
        """Wait for what can be done now; nothing more in either direction: it is over."""
        if not stream.reading and not stream.writing and not stream.out:
            self._close(stream, tell=False)
            return
        events = _READ if stream.reading and stream.room and not self._full else 0
        events |= _WRITE if stream.out else 0
        if events != stream.events:
            if not events:
                self._poll.unregister(stream.fd)
            else:
                self._poll.register(stream.fd, events)
            stream.events = events

    def _close(self, stream: _Stream, tell: bool) -> None:
        if self._streams.pop(stream.number, None) is None:
            return
        del self._by_fd[stream.fd]
        self._theirs -= (stream.number ^ self._next) & 1
        if stream.events:
            self._poll.unregister(stream.fd)
        stream.sock.close()
        if tell:
            self._send(_RESET, stream.number, b"")


def dial(address: object, family: int) -> socket.socket:
    """A socket that connects (or is about to) to a local address. Raises OSError."""
    sock = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        sock.settimeout(5)
        sock.connect(address)  # type: ignore[arg-type]
    except BaseException:
        sock.close()
        raise
    return sock


def read_exactly(fd: int, size: int) -> bytes:
    """Exactly so many bytes of a blocking descriptor. Raises BrokenPipe when it ends before."""
    found: list[bytes] = []
    while size:
        part = os.read(fd, size)
        if not part:
            raise BrokenPipe("the other side is gone")
        found.append(part)
        size -= len(part)
    return b"".join(found)


def read_line(fd: int, most: int) -> bytes:
    """One line, byte by byte, so that nothing of what follows it is taken. Raises BrokenPipe."""
    line = b""
    while not line.endswith(b"\n"):
        line += read_exactly(fd, 1)
        if len(line) > most:
            raise BrokenPipe("a line without end")
    return line[:-1]


def write_all(fd: int, data: bytes) -> None:
    """All of it, to a blocking descriptor. Raises OSError."""
    view: memoryview | None = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]
