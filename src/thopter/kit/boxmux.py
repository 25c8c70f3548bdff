"""The hub's end of a boxd connection: one demultiplexer, many channels, credit both ways.

Everything that arrives is from a box and hostile: sizes are bounded by credit, and whatever breaks
the protocol ends the connection.
"""

from __future__ import annotations

import asyncio
import re
from collections import deque
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any

from thopter.boxd import wire
from thopter.model.errors import (
    BadInput,
    Conflict,
    NotFound,
    NotNow,
    ProviderError,
    ThopterError,
    TimedOut,
    Unsupported,
)

_CODES: dict[str, type[ThopterError]] = {
    cls.code: cls for cls in (BadInput, Conflict, NotFound, NotNow, Unsupported)
}
_READ = 64 << 10
_MAX_LOOSE = 256  # messages waiting that use no credit
_MAX_CHANNELS = 4096
_BAD_SURROGATES = re.compile("[\ud800-\udc7f\udd00-\udfff]")
_SURROGATES = re.compile("[\ud800-\udfff]")


def gone(reason: str = "") -> ProviderError:
    """The error of everything that was pending when the connection ended."""
    said = "the box's boxd went away" + (f" ({reason})" if reason else "")
    return ProviderError(said, hint="it comes back by itself if the box lives")


def clean(value: Any, exact: bool = False, depth: int = 0) -> Any:
    """Make strings of a decoded message safe to encode: stray surrogates are replaced.

    With ``exact``, those that stand for stray bytes (surrogateescape) stay. What is nested more
    than 32 deep becomes None.
    """
    if depth > 32:
        return None
    if isinstance(value, str):
        if value.isascii():
            return value
        return (_BAD_SURROGATES if exact else _SURROGATES).sub("\ufffd", value)
    if isinstance(value, dict):
        return {clean(k, exact): clean(v, exact, depth + 1) for k, v in value.items()}
    return [clean(v, exact, depth + 1) for v in value] if isinstance(value, list) else value


def as_error(raw: Any) -> ThopterError:
    """Make the error that boxd's ``{"code", "message", …}`` means; other codes are ProviderError."""
    if not isinstance(raw, dict):
        return ProviderError("boxd failed and did not say how")
    told = clean(raw)
    code, message = str(told.pop("code", "")), str(told.pop("message", "boxd failed"))[:2000]
    kind = _CODES.get(code, ProviderError)
    data = {k: v for k, v in told.items() if k not in ("hint", "self", "message")}
    return kind(message, **({"boxd_code": code} if kind is ProviderError else {}), **data)


class MuxChannel:
    """One channel opened by the hub (or, for relays, by boxd and served here).

    A context manager: leaving it before the channel has ended cancels it.
    """

    def __init__(self, mux: Mux, number: int, counted: bool) -> None:
        self.number = number
        self.end: dict[str, Any] | None = None
        self._mux = mux
        self._counted = counted
        self._error: ThopterError | None = None
        self._inbox: deque[wire.Message | wire.Data] = deque()
        self._loose = 0
        self._readable = asyncio.Event()
        self._writable = asyncio.Event()
        self._outgoing: deque[memoryview] = deque()
        self._eof = False
        self._send = wire.SendWindow()
        self._receive: dict[int, wire.ReceiveWindow] = {}

    def __enter__(self) -> MuxChannel:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not self.finished:
            self.say({"cancel": True})
            self.fail(gone("cancelled"))
        self._mux.forget(self.number)

    @property
    def finished(self) -> bool:
        """True when its end (or error) has come; unread output may still be there."""
        return self.end is not None or self._error is not None

    async def next(self) -> wire.Message | wire.Data | None:
        """The next message or data in order of arrival; None at the end. Raises the channel's
        error after all that came before it."""
        while not self._inbox:
            if self._error is not None:
                raise self._error
            if self.end is not None:
                return None
            self._readable.clear()
            await self._readable.wait()
        item = self._inbox.popleft()
        if isinstance(item, wire.Data):
            self._consumed(item.stream, len(item.data))
        elif self._counted:
            self._consumed(wire.MESSAGES, item.size)
        else:
            self._loose -= 1
        return item

    async def result(self) -> dict[str, Any]:
        """Discard what comes until the end, and return that."""
        while await self.next() is not None:
            pass
        assert self.end is not None  # next() has just said so
        return self.end

    def say(self, body: Mapping[str, Any]) -> None:
        """Send a message; after the end of the connection it goes nowhere."""
        self._mux.send(wire.message(self.number, dict(body)))

    def post(self, data: bytes) -> None:
        """Queue bytes; they leave as the other side gives credit. After the end they are dropped."""
        if data and not self.finished:
            self._outgoing.append(memoryview(data))
            self._pump()

    def post_eof(self) -> None:
        """Say that no more bytes come, once all queued ones have left."""
        self._eof = True
        self._pump()

    async def write(self, data: bytes) -> None:
        """Send bytes, waiting until all have left; after the channel's end they are dropped."""
        self.post(data)
        while self._outgoing and not self.finished:
            self._writable.clear()
            await self._writable.wait()
        await self._mux.drain()

    def _pump(self) -> None:
        out = self._outgoing
        while out and self._send.left > 0:
            part = out[0][: min(self._send.left, wire.CHUNK)]
            self._send.spend(len(part))
            self._mux.send(wire.data(self.number, wire.STDIN, bytes(part)))
            if len(part) == len(out[0]):
                out.popleft()
            else:
                out[0] = out[0][len(part) :]
        if not out:
            if self._eof and not self.finished:
                self._eof = False
                self.say({"eof": wire.STDIN})
            self._writable.set()

    def _consumed(self, stream: int, count: int) -> None:
        grant = self._window(stream).consumed(count)
        if grant and not self.finished:
            self._mux.send(wire.credit(self.number, stream, grant))

    def _window(self, stream: int) -> wire.ReceiveWindow:
        return self._receive.setdefault(stream, wire.ReceiveWindow())

    # --- called by the demultiplexer

    def take(self, item: wire.Item) -> None:
        """Take in a frame. Raises ProtocolError for more than there was credit for."""
        if self.finished:
            return
        if isinstance(item, wire.Credit):
            if item.stream == wire.STDIN:
                self._send.grant(item.amount)
                self._pump()
            return
        if isinstance(item, wire.Data):
            self._window(item.stream).received(len(item.data))
        elif "end" in item.body or "error" in item.body:
            self._finish(item.body)
            return
        elif self._counted:
            self._window(wire.MESSAGES).received_message(item.size)
        else:
            self._loose += 1
            if self._loose > _MAX_LOOSE:
                raise wire.ProtocolError("too many messages at once")
        self._inbox.append(item)
        self._readable.set()

    def _finish(self, body: dict[str, Any]) -> None:
        if "error" in body:
            self.fail(as_error(body["error"]))
            return
        end = body["end"]
        if not isinstance(end, dict):
            raise wire.ProtocolError("an end that is not an object")
        self.end = clean(end)
        self._wake()

    def finish(self) -> None:
        """End a channel that boxd opened and we serve. Idempotent."""
        if not self.finished:
            self.say({"end": {}})
            self.end = {}
            self._wake()

    def fail(self, error: ThopterError) -> None:
        """End it with an error, unless it has ended."""
        if not self.finished:
            self._error = error
            self._wake()

    def _wake(self) -> None:
        self._outgoing.clear()
        self._readable.set()
        self._writable.set()


class Mux:
    """All channels of one connection. :meth:`run` is its one task; when that ends, every pending
    operation has failed."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer
        self._channels: dict[int, MuxChannel] = {}
        self._next = 1
        self._answers: deque[asyncio.Future[dict[str, Any]]] = deque()
        self._lost: ThopterError | None = None
        self.lost = asyncio.Event()
        self.accept: dict[int, Callable[[MuxChannel], None]] = {}  # by number of the listen channel

    async def run(self) -> None:
        """Take frames in until the connection ends; never raises for what the other side does."""
        decoder, reason = wire.Decoder(), ""
        try:
            while received := await self._reader.read(_READ):
                for item in decoder.feed(received):
                    self._dispatch(item)
        except OSError as e:
            reason = e.strerror or str(e)
        except wire.ProtocolError as e:
            reason = f"it broke the protocol: {e}"
        finally:
            self.close(reason)

    def close(self, reason: str = "") -> None:
        """End the connection; everything pending fails. Idempotent."""
        if self._lost is not None:
            return
        self._lost = gone(reason)
        self._writer.close()
        for channel in list(self._channels.values()):
            channel.fail(gone(reason))
        self._channels.clear()
        while self._answers:
            answer = self._answers.popleft()
            if not answer.done():
                answer.set_exception(gone(reason))
        self.lost.set()

    def open(self, request: Mapping[str, Any], counted: bool = False) -> MuxChannel:
        """Open a channel with a request (BadInput when it is too large). ``counted``: its messages
        use credit (journal, tail, read_files)."""
        if self._lost is not None:
            raise gone()
        number, self._next = self._next, self._next + 2
        try:
            frame = wire.message(number, dict(request))
        except ValueError as e:
            raise BadInput(f"the request is too large: {e}") from None
        channel = MuxChannel(self, number, counted)
        self._channels[number] = channel
        self.send(frame)
        return channel

    async def ask(self, request: Mapping[str, Any], timeout: float) -> dict[str, Any]:
        """Ask on channel 0 (hello, ping); answers come in the order of the questions."""
        if self._lost is not None:
            raise gone()
        answer: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        self._answers.append(answer)
        self.send(wire.message(0, dict(request)))
        try:
            async with asyncio.timeout(timeout):
                return await answer
        except TimeoutError:
            raise TimedOut(f"the box's boxd did not answer in {timeout:g} s") from None

    def send(self, frame: bytes) -> None:
        """Queue a frame; nothing happens when the connection has ended."""
        if self._lost is None:
            self._writer.write(frame)

    async def drain(self) -> None:
        """Wait until the transport takes more."""
        try:
            await self._writer.drain()
        except OSError:
            return  # the demultiplexer sees it too and says so to everybody

    def forget(self, number: int) -> None:
        """Drop a channel; what still comes for it is ignored."""
        self._channels.pop(number, None)

    def _dispatch(self, item: wire.Item) -> None:
        if item.channel == 0:
            self._answer(item)
            return
        channel = self._channels.get(item.channel)
        if channel is not None:
            channel.take(item)
        elif isinstance(item, wire.Message) and "op" in item.body:
            self._accepted(item)

    def _answer(self, item: wire.Item) -> None:
        if not isinstance(item, wire.Message):
            raise wire.ProtocolError("data on channel 0")
        error = item.body.get("error")
        if isinstance(error, dict) and error.get("code") == "protocol":
            raise wire.ProtocolError(f"it says: {clean(error).get('message')}"[:500])
        if not self._answers:
            raise wire.ProtocolError("an answer that nobody asked for")
        answer = self._answers.popleft()
        if answer.done():  # whoever asked has given up
            return
        if error is not None:
            answer.set_exception(as_error(error))
        else:
            end = item.body.get("end")
            answer.set_result(clean(end) if isinstance(end, dict) else {})

    def _accepted(self, item: wire.Message) -> None:
        number, listening = item.channel, item.body.get("listen")
        take = self.accept.get(listening) if isinstance(listening, int) else None
        if number % 2 or item.body.get("op") != "accept":
            raise wire.ProtocolError("a channel that was not expected")
        if len(self._channels) > _MAX_CHANNELS:
            raise wire.ProtocolError("too many channels")
        channel = MuxChannel(self, number, False)
        if take is None:  # nobody listens any more
            channel.say({"error": {"code": "not_now", "message": "nobody listens any more"}})
            return
        self._channels[number] = channel
        take(channel)
