"""Carries connections of a listener here to a port inside a box, all in one loop, with backpressure."""

from __future__ import annotations

import contextlib
import select
import socket
from collections.abc import Callable

from thopter.cli.forward_guard import REFUSAL, judge
from thopter.kit.sanitize import one_line
from thopter.mesh.execs import Exec
from thopter.model.errors import ThopterError

_ROOM = 256 << 10
_MOST = 256  # connections at once; more wait in the listener's queue


def listen(local: int | None, wanted: int) -> socket.socket:
    """A listener on loopback: exactly ``local``, else ``wanted`` when that is free, else any port."""
    for number in [local] if local else [wanted, 0]:
        sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            sock.bind(("127.0.0.1", number))
            sock.listen(128)
        except OSError:
            sock.close()
            if number == (local or 0):
                raise
            continue
        sock.setblocking(False)
        return sock
    raise AssertionError("port 0 is always tried last")


class Pair:
    """One connection: ``sock`` here, ``far`` in the box."""

    def __init__(self, sock: socket.socket, far: Exec) -> None:
        sock.setblocking(False)
        self.sock = sock
        self.far = far
        self.back = bytearray()  # for sock
        self.ended = False  # sock has ended its direction
        self.head: bytearray | None = bytearray()  # what came first, until it may pass
        self.refused = False

    def near_mask(self) -> int:
        """What to wait for on ``sock``."""
        taking = not self.ended and not self.refused and self.far.ended is None and self.far.room
        reading = select.POLLIN if taking else 0
        return reading | (select.POLLOUT if self.back else 0)

    def far_mask(self) -> int:
        """What to wait for on ``far``."""
        reading = select.POLLIN if len(self.back) < _ROOM else 0
        return reading | (select.POLLOUT if self.far.pending else 0)

    def near(self) -> None:
        """Take from and give to ``sock`` what is possible now; OSError when it broke."""
        if self.back:
            with contextlib.suppress(BlockingIOError):
                del self.back[: self.sock.send(self.back)]
        if not self.ended and not self.refused and self.far.ended is None and self.far.room:
            with contextlib.suppress(BlockingIOError):
                held = len(self.head or b"")
                self._take(self.sock.recv(max(1, min(self.far.room - held, _ROOM))))

    def _take(self, data: bytes) -> None:
        if self.head is not None:
            self.head += data
            verdict = judge(bytes(self.head), ended=not data)
            if verdict is None:
                return
            if not verdict:
                self.refused = True
                self.back += REFUSAL
                return
            data, self.head = bytes(self.head), None
            if data:
                self.far.give(data)
                return
        if data:
            self.far.give(data)
        else:
            self.ended = True
            self.far.eof()

    def move(self) -> bool:
        """Move what came from the box, unless much waits already; False when all is over.
        ThopterError when it broke."""
        if self.far.ended is None and len(self.back) < _ROOM:
            self.far.move()
        while self.far.output:
            self.back += self.far.output.popleft()[1]
        return bool(self.back) or (self.far.ended is None and not self.refused)

    def close(self) -> None:
        """End both."""
        self.sock.close()
        self.far.close()


class Forwarder:
    """``run`` serves the listener until it is interrupted; ``dial`` opens a connection into the box."""

    def __init__(self, listener: socket.socket, dial: Callable[[], Exec], say: Callable[[str], None]) -> None:
        self._listener = listener
        self._dial = dial
        self._say = say
        self._said = ""
        self._pairs: dict[int, Pair] = {}  # by both descriptors

    def run(self) -> None:
        """See the class; never returns by itself."""
        try:
            while True:
                self._turn()
        finally:
            for pair in set(self._pairs.values()):
                pair.close()

    def _turn(self) -> None:
        poll = select.poll()
        pairs = set(self._pairs.values())
        if len(pairs) < _MOST:
            poll.register(self._listener, select.POLLIN)
        for pair in pairs:
            over = pair.far.ended is not None
            poll.register(pair.sock, pair.near_mask())
            if not over:
                poll.register(pair.far, pair.far_mask())
        for fd, event in poll.poll():
            found = self._pairs.get(fd)
            if fd == self._listener.fileno():
                self._accept()
            elif found is not None:
                broken = event & (select.POLLERR | select.POLLHUP) and not event & select.POLLIN
                self._serve(found, bool(broken))

    def _accept(self) -> None:
        try:
            sock, _ = self._listener.accept()
        except (BlockingIOError, ConnectionError):
            return
        try:
            far = self._dial()
        except ThopterError as e:
            sock.close()
            self._complain(e)
            return
        pair = Pair(sock, far)
        self._pairs[sock.fileno()] = self._pairs[far.fileno()] = pair

    def _serve(self, pair: Pair, broken: bool) -> None:
        going = not broken
        try:
            pair.near()
            if pair.move():
                pair.near()
            over = pair.far.ended is not None or pair.refused
            going = going and (not over or bool(pair.back))
        except ThopterError as e:
            self._complain(e)
            going = False
        except OSError:
            going = False  # the browser went away
        if not going:
            for fd in (pair.sock.fileno(), pair.far.fileno()):
                self._pairs.pop(fd, None)
            pair.close()

    def _complain(self, error: ThopterError) -> None:
        """Say what is wrong once, not for each of a page's connections."""
        text = one_line(error.message, 300)
        if text != self._said:
            self._said = text
            self._say(f"note: {text}")
