"""Loopback relays: dial a port inside the box, or listen on one and hand its connections to the hub."""

from __future__ import annotations

import errno
import os
import socket
from typing import Callable, List, Optional

from thopter.boxd import fields
from thopter.boxd.accept import Acceptor
from thopter.boxd.box import Box
from thopter.boxd.conn import Channel, Handler
from thopter.boxd.fields import OpError, Request, bad
from thopter.boxd.loop import WRITE
from thopter.boxd.pump import Sink, Source
from thopter.boxd.wire import STDIN, STDOUT

_MAX_RELAYS = 1024  # open connections of one listener


class Relay(Handler):
    """Carries one TCP connection: stream 0 is written to it, stream 1 is what it says; each
    direction ends by itself (``{"eof": 0}`` from the hub, ``{"eof": 1}`` from here).

    ``done()`` is called once when both directions have ended.
    """

    def __init__(self, box: Box, channel: Channel, sock: socket.socket, done: Callable[[], None]) -> None:
        self._channel, self._sock, self._done = channel, sock, done
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        write_fd, read_fd = os.dup(sock.fileno()), os.dup(sock.fileno())
        self._sink = Sink(box.loop, write_fd, channel, STDIN, self._sink_closed)
        self._source = Source(box.loop, read_fd, channel, STDOUT, self._source_ended)

    def on_message(self, body: Request) -> None:
        """``eof`` 0 ends what we write; an ``end`` or ``error`` of the hub ends the channel, and
        what it had sent before is still delivered."""
        if body.get("eof") == 0:
            self._sink.end()
        elif "end" in body or "error" in body:
            self._source.close()
            self._channel.leave()
            self._sink.end()
            self._check()

    def on_data(self, channel: Channel, stream: int, data: bytes) -> None:
        """See :class:`Handler`."""
        if stream == STDIN:
            self._sink.feed(data)
        else:
            channel.consumed(stream, len(data))

    def on_room(self) -> None:
        """See :class:`Handler`."""
        self._source.resume()

    def on_cancel(self) -> None:
        """See :class:`Handler`."""
        self.on_lost()
        self._channel.fail(OpError("cancelled", "cancelled"))

    def on_lost(self) -> None:
        """See :class:`Handler`."""
        self._source.close()
        self._sink.close()
        self._check()

    def _sink_closed(self) -> None:
        try:
            self._sock.shutdown(socket.SHUT_WR)
        except OSError:
            pass  # the other side has closed already
        self._check()

    def _source_ended(self) -> None:
        self._channel.send({"eof": 1})
        self._check()

    def _check(self) -> None:
        if not self._sink.open and not self._source.open and self._sock.fileno() >= 0:
            self._sock.close()
            self._done()


class Dial(Handler):
    """Serves ``dial``: connects within 30 seconds or fails, then relays; ends when both directions
    have. Only addresses are dialled, never names: a box has no resolver."""

    def __init__(self, box: Box, channel: Channel, request: Request) -> None:
        self._box, self._channel = box, channel
        port = fields.integer(request, "port", None, 1, 65535)
        host = fields.string(request, "host", "127.0.0.1")
        self._relay: Optional[Relay] = None
        self._early: List[bytes] = []  # what came before the connection stood; bounded by credit
        self._early_end = False
        family = _family(host)
        self._sock = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        self._sock.setblocking(False)
        self._shown = f"{host}:{port}"
        code = self._sock.connect_ex((host, port))
        if code not in (0, errno.EINPROGRESS):
            self._sock.close()
            raise fields.from_os(OSError(code, ""), self._shown)
        self._timer = box.loop.later(30, self._too_long)
        box.loop.watch(self._sock.fileno(), WRITE, self._connected)

    def on_message(self, body: Request) -> None:
        """See :class:`Relay`."""
        if self._relay is not None:
            self._relay.on_message(body)
        elif body.get("eof") == 0:
            self._early_end = True

    def on_data(self, channel: Channel, stream: int, data: bytes) -> None:
        """See :class:`Handler`."""
        if self._relay is not None:
            self._relay.on_data(channel, stream, data)
        elif stream == STDIN:
            self._early.append(data)
        else:
            channel.consumed(stream, len(data))

    def on_room(self) -> None:
        """See :class:`Handler`."""
        if self._relay is not None:
            self._relay.on_room()

    def on_cancel(self) -> None:
        """See :class:`Handler`."""
        self.on_lost()
        self._channel.fail(OpError("cancelled", "cancelled"))

    def on_lost(self) -> None:
        """See :class:`Handler`."""
        if self._relay is not None:
            self._relay.on_lost()
        else:
            self._stop_waiting()
            self._sock.close()

    def _stop_waiting(self) -> None:
        self._timer.cancel()
        if self._sock.fileno() >= 0:
            self._box.loop.forget(self._sock.fileno())

    def _too_long(self) -> None:
        self._stop_waiting()
        self._sock.close()
        self._channel.fail(OpError("not_now", f"{self._shown} did not answer in 30 seconds"))

    def _connected(self, _events: int) -> None:
        self._stop_waiting()
        code = self._sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if code:
            self._sock.close()
            self._channel.fail(fields.from_os(OSError(code, ""), self._shown))
            return
        self._channel.send({"open": True})
        self._relay = relay = Relay(self._box, self._channel, self._sock, lambda: self._channel.end({}))
        for data in self._early:
            relay.on_data(self._channel, STDIN, data)
        self._early.clear()
        if self._early_end:
            relay.on_message({"eof": 0})


class Listen(Handler):
    """Serves ``listen``: each connection to 127.0.0.1:port becomes a channel opened by boxd.
    Cancelled, it listens no more; connections that stand go on."""

    def __init__(self, box: Box, channel: Channel, request: Request) -> None:
        self._box, self._channel = box, channel
        self._relays = 0
        port = fields.integer(request, "port", None, 0, 65535)
        listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(("127.0.0.1", port))
            listener.listen(128)
        except OSError as e:
            listener.close()
            raise fields.from_os(e, f"port {port}") from None
        self._port = listener.getsockname()[1]
        self._acceptor = Acceptor(box.loop, listener, self._take)
        channel.send({"listening": {"port": self._port}})

    def on_cancel(self) -> None:
        """See the class."""
        self._acceptor.close()
        self._channel.end({})

    def on_lost(self) -> None:
        """See :class:`Handler`."""
        self._acceptor.close()

    def _take(self, sock: socket.socket) -> None:
        if self._relays >= _MAX_RELAYS:
            sock.close()
            return
        self._relays += 1
        request = {"op": "accept", "port": self._port, "listen": self._channel.number}
        self._channel.open_back(request, lambda channel: Relay(self._box, channel, sock, self._gone))

    def _gone(self) -> None:
        self._relays -= 1


def _family(host: str) -> int:
    for family in (socket.AF_INET, socket.AF_INET6):
        try:
            socket.inet_pton(family, host)
        except OSError:
            continue
        return family
    raise bad("host must be an IP address")
