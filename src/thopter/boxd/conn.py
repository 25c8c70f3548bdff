"""One connection: frames in and out of a socket, channels, credit, and who serves each channel."""

from __future__ import annotations

import socket
from collections import deque
from functools import partial
from typing import Any, Callable, Coroutine, Deque, Dict, List, Mapping, Optional, Set

from thopter.boxd import wire
from thopter.boxd.fields import OpError, Request, from_os
from thopter.boxd.loop import GONE, HANGUP, READ, WRITE, Loop, describe, log
from thopter.boxd.task import Promise, Task

_RECEIVE = 64 << 10
_CONGESTED = 512 << 10  # producers wait above this many queued bytes
_STOP_READING = 4 << 20  # above this we take no more requests until the other side reads
_MAX_CHANNELS = 4096


class Handler:
    """Serves one channel; subclasses override what concerns them."""

    def on_message(self, body: Request) -> None:
        """A further message of the opener. Unknown ones are ignored."""

    def on_data(self, channel: Channel, stream: int, data: bytes) -> None:
        """Bytes of the opener; to be acknowledged with ``channel.consumed``. Discarded here."""
        channel.consumed(stream, len(data))

    def on_room(self) -> None:
        """There may be room to send again."""

    def on_cancel(self) -> None:
        """The opener has had enough: end soon."""

    def on_lost(self) -> None:
        """The connection is gone, nothing more can be sent; let go of everything."""


class Channel:
    """The serving end of one channel. After :meth:`end` or :meth:`fail` it sends nothing more."""

    __slots__ = ("_conn", "_receive", "_send", "handler", "number", "open")

    def __init__(self, conn: Connection, number: int) -> None:
        self._conn = conn
        self.number = number
        self.open = True
        self.handler: Handler = Handler()
        self._send: Dict[int, wire.SendWindow] = {}
        self._receive: Dict[int, wire.ReceiveWindow] = {}

    def send(self, body: Dict[str, Any]) -> None:
        """Send a message that uses no credit (few and small ones)."""
        if self.open:
            self._conn.write(wire.message(self.number, body))

    def send_counted(self, body: Dict[str, Any]) -> None:
        """Send a message that uses the MESSAGES credit; ask :meth:`room` first."""
        if self.open:
            frame = wire.message(self.number, body)
            self._window(wire.MESSAGES).spend(len(frame) - 9)
            self._conn.write(frame)

    def send_data(self, stream: int, content: bytes) -> None:
        """Send bytes, at most as many as :meth:`room` said."""
        if self.open:
            self._window(stream).spend(len(content))
            self._conn.write(wire.data(self.number, stream, content))

    def room(self, stream: int) -> int:
        """How many bytes may be sent now; at 0 ``handler.on_room`` comes when that changes."""
        if not self.open:
            return 0
        left = self._window(stream).left
        if left <= 0:
            return 0
        if self._conn.congested:
            self._conn.hungry.add(self)
            return 0
        return min(left, wire.CHUNK)

    def consumed(self, stream: int, count: int) -> None:
        """Say that received bytes are used up, so that the other side may send more."""
        grant = self._received(stream).consumed(count)
        if grant and self.open:
            self._conn.write(wire.credit(self.number, stream, grant))

    def end(self, result: Dict[str, Any]) -> None:
        """Finish well."""
        self._finish({"end": result})

    def fail(self, error: OpError) -> None:
        """Finish with an error."""
        self._finish({"error": error.body()})

    def _finish(self, body: Dict[str, Any]) -> None:
        if not self.open:
            return
        try:
            self.send(body)
        except ValueError as e:  # an answer too large for a frame
            self.send({"error": {"code": "failed", "message": str(e)}})
        self.open = False
        self._conn.drop(self.number)

    def leave(self) -> None:
        """The other side has ended this channel (which we had opened): forget it."""
        self.open = False
        self._conn.drop(self.number)

    def open_back(self, request: Dict[str, Any], handler: Callable[[Channel], Handler]) -> None:
        """Open a channel towards the hub on the same connection."""
        self._conn.open(request, handler)

    def take(self, item: wire.Item) -> None:
        """Take in what the other side sent on this channel."""
        if isinstance(item, wire.Data):
            self._received(item.stream).received(len(item.data))
            self.handler.on_data(self, item.stream, item.data)
        elif isinstance(item, wire.Credit):
            self._window(item.stream).grant(item.amount)
            self.handler.on_room()
        elif item.body.get("cancel") is True:
            self.handler.on_cancel()
        else:
            self.handler.on_message(item.body)

    def _window(self, stream: int) -> wire.SendWindow:
        window = self._send.get(stream)
        if window is None:
            window = self._send[stream] = wire.SendWindow()
        return window

    def _received(self, stream: int) -> wire.ReceiveWindow:
        window = self._receive.get(stream)
        if window is None:
            window = self._receive[stream] = wire.ReceiveWindow()
        return window


Opener = Callable[[Channel, Request], Handler]
Immediate = Callable[[Request], Dict[str, Any]]


class Call(Handler):
    """Serves a request by a coroutine: what it returns is the end, an OpError is the error.

    Cancelling ends the coroutine. A lost connection does not: what was begun (keys half typed, a
    run half started) is brought to its end.
    """

    def __init__(self, channel: Channel, work: Coroutine[Promise[Any], None, Dict[str, Any]]) -> None:
        self._channel = channel
        self._task: Optional[Task] = None
        task = Task(work, self._finish)
        self._task = task

    def _finish(self, result: Optional[Dict[str, Any]], error: Optional[Exception]) -> None:
        if error is None:
            self._channel.end(result or {})
        else:
            self._channel.fail(as_op_error(error))

    def on_cancel(self) -> None:
        """See :class:`Handler`."""
        if self._task is not None:
            self._task.cancel()
        self._channel.fail(OpError("cancelled", "cancelled"))


def as_op_error(error: Exception) -> OpError:
    """Make an OpError of anything; a defect is logged with its place."""
    if isinstance(error, OpError):
        return error
    if isinstance(error, OSError):
        return from_os(error, "the system said")
    log("defect: " + describe(error))
    return OpError("failed", "boxd has a defect: " + describe(error))


class Connection:
    """Owns one socket until it is lost; a ProtocolError closes this connection only."""

    def __init__(
        self,
        loop: Loop,
        sock: socket.socket,
        ops: Mapping[str, Opener],
        immediate: Mapping[str, Immediate],
        lost: Callable[[Connection], None],
    ) -> None:
        """``ops`` open channels; ``immediate`` ones are answered at once on channel 0."""
        self._loop, self._sock, self._ops, self._immediate, self._lost = loop, sock, ops, immediate, lost
        self._decoder = wire.Decoder()
        self._channels: Dict[int, Channel] = {}
        self._out: Deque[memoryview] = deque()
        self._queued = 0
        self._flushing = False
        self._events = READ | HANGUP
        self._next_even = 2
        self.hungry: Set[Channel] = set()
        self.alive = True
        sock.setblocking(False)
        loop.watch(sock.fileno(), self._events, self._ready)

    @property
    def congested(self) -> bool:
        """True while the other side does not read fast enough."""
        return self._queued >= _CONGESTED

    def open(self, request: Request, handler: Callable[[Channel], Handler]) -> Channel:
        """Open a channel of ours (even number) towards the hub."""
        channel = Channel(self, self._next_even)
        self._next_even += 2
        self._channels[channel.number] = channel
        channel.handler = handler(channel)
        channel.send(request)
        return channel

    def write(self, frame: bytes) -> None:
        """Queue a frame; everything queued in one turn of the loop leaves together."""
        if not self.alive:
            return
        self._out.append(memoryview(frame))
        self._queued += len(frame)
        if not self._flushing and not self._events & WRITE:
            self._flushing = True
            self._loop.soon(self._flush_soon)

    def drop(self, number: int) -> None:
        """Forget a finished channel."""
        channel = self._channels.pop(number, None)
        if channel is not None:
            self.hungry.discard(channel)

    def close(self, reason: str = "") -> None:
        """Close now; every channel's handler is told."""
        if not self.alive:
            return
        self.alive = False
        if reason:
            log("closed a connection: " + reason)
        self._loop.forget(self._sock.fileno())
        self._sock.close()
        self._out.clear()
        channels, self._channels = list(self._channels.values()), {}
        self.hungry.clear()
        for channel in channels:
            channel.open = False
            self._guard(channel, channel.handler.on_lost)
        self._lost(self)

    def _ready(self, events: int) -> None:
        if events & WRITE:
            self._flush()
        if self.alive and events & READ:
            self._receive()
        elif self.alive and events & (HANGUP | GONE):
            self.close()

    def _receive(self) -> None:
        try:
            received = self._sock.recv(_RECEIVE)
        except BlockingIOError:
            return
        except OSError:
            received = b""
        if not received:
            self.close()
            return
        try:
            for item in self._decoder.feed(received):
                self._dispatch(item)
        except wire.ProtocolError as e:
            # What was already answered may still leave; then the connection ends.
            self.write(wire.message(0, {"error": {"code": "protocol", "message": str(e)[:500]}}))
            self._flush()
            self.close(str(e))
        self._update()

    def _dispatch(self, item: wire.Item) -> None:
        if not self.alive:
            return
        if isinstance(item, wire.Message) and (item.channel == 0 or "op" in item.body):
            self._request(item)
            return
        channel = self._channels.get(item.channel)
        if channel is None:
            if item.channel == 0:
                raise wire.ProtocolError("data on channel 0")
            return  # it has ended; what was under way meanwhile is ignored
        self._guard(channel, partial(channel.take, item))

    def _request(self, item: wire.Message) -> None:
        number, name = item.channel, item.body.get("op")
        if number == 0:
            answer = self._answer(name, item.body)
            self.write(wire.message(0, {**answer, "op": name if isinstance(name, str) else ""}))
            return
        if number % 2 == 0 or number in self._channels:
            raise wire.ProtocolError(f"channel {number} can't be opened")
        if len(self._channels) >= _MAX_CHANNELS:
            raise wire.ProtocolError("too many channels")
        channel = self._channels[number] = Channel(self, number)
        opener = self._ops.get(name) if isinstance(name, str) else None
        if opener is None:
            channel.fail(OpError("unsupported", f"there is no op {str(name)[:60]!r}"))
            return
        self._guard(channel, partial(self._open, channel, opener, item.body))

    @staticmethod
    def _open(channel: Channel, opener: Opener, body: Request) -> None:
        handler = opener(channel, body)
        if channel.open:
            channel.handler = handler

    def _answer(self, name: Any, body: Request) -> Dict[str, Any]:
        call = self._immediate.get(name) if isinstance(name, str) else None
        try:
            if call is None:
                raise OpError("unsupported", f"there is no op {str(name)[:60]!r} on channel 0")
            return {"end": call(body)}
        except OpError as e:
            return {"error": e.body()}

    def _guard(self, channel: Channel, work: Callable[[], None]) -> None:
        try:
            work()
        except wire.ProtocolError as e:
            raise wire.ProtocolError(f"channel {channel.number}: {e}") from None
        except Exception as e:  # noqa: BLE001 - one channel's trouble must not touch the others
            channel.fail(as_op_error(e))

    def _flush_soon(self) -> None:
        self._flushing = False
        if self.alive:
            self._flush()

    def _flush(self) -> None:
        out = self._out
        try:
            while out:
                sent = self._sock.sendmsg(_first(out, 32))
                self._queued -= sent
                while sent:
                    head = out[0]
                    if sent < len(head):
                        out[0] = head[sent:]
                        break
                    sent -= len(head)
                    out.popleft()
        except BlockingIOError:
            pass
        except OSError:
            self.close()
            return
        self._update()
        if self.hungry and not self.congested:
            hungry, self.hungry = self.hungry, set()
            for channel in hungry:
                self._guard(channel, channel.handler.on_room)

    def _update(self) -> None:
        if not self.alive:
            return
        events = 0 if self._queued > _STOP_READING else READ | HANGUP
        if self._out and not self._flushing:
            events |= WRITE
        if events != self._events:
            self._events = events
            self._loop.change(self._sock.fileno(), events)


def _first(out: Deque[memoryview], count: int) -> List[memoryview]:
    return [out[i] for i in range(min(count, len(out)))]
