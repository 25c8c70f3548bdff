"""One client connection: bytes in with limits, answers out with back-pressure, and word when it is gone.

Every wait has a bound: a client that sends or reads slowly loses its connection, nobody else's.
A client that closes its half of the connection is taken as gone (agents and git never do that early).
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable

from msgspec import Struct

from thopter.gateway.http1 import BadRequest, BodyDecoder, Head, HeadFinder, parse_head, response_head

_BUFFER_MAX = 256 * 1024


class Limits(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Bounds of one box's clients: seconds, bytes, counts."""

    connections: int = 64
    head_seconds: float = 10.0
    keep_alive_seconds: float = 75.0
    body_idle_seconds: float = 30.0
    body_seconds: float = 900.0
    body_bytes: int = 64 << 20
    write_stall_seconds: float = 120.0
    linger_seconds: float = 2.0
    connect_seconds: float = 10.0
    upstream_idle_seconds: float = 600.0


class ClientGone(Exception):
    """The client closed the connection, or was too slow to be waited for."""


class Wire(asyncio.Protocol):
    """The transport's other half: a bounded buffer of what came in and a brake for what goes out."""

    def __init__(self) -> None:
        self.buffer = bytearray()
        self.gone = False
        self.on_gone: Callable[[], None] | None = None
        self.kept: object = None  # what a handler keeps for the next request; ``on_end`` lets go of it
        self.on_end: Callable[[], None] | None = None
        self._transport: asyncio.Transport | None = None
        self._news = asyncio.Event()
        self._writable = asyncio.Event()
        self._writable.set()
        self._closed = asyncio.Event()
        self._reading = True

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See asyncio.Protocol."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        """See asyncio.Protocol."""
        self.buffer += data
        if len(self.buffer) > _BUFFER_MAX and self._reading and self._transport is not None:
            self._transport.pause_reading()
            self._reading = False
        self._news.set()

    def eof_received(self) -> bool:
        """See asyncio.Protocol. The connection stays open for a last answer."""
        self._is_gone()
        return True

    def connection_lost(self, exc: Exception | None) -> None:
        """See asyncio.Protocol."""
        self._is_gone()
        self._writable.set()
        self._closed.set()
        self._transport = None

    def _is_gone(self) -> None:
        self._news.set()
        if self.gone:
            return
        self.gone = True
        if self.on_gone is not None:
            self.on_gone()

    def pause_writing(self) -> None:
        """See asyncio.Protocol."""
        self._writable.clear()

    def resume_writing(self) -> None:
        """See asyncio.Protocol."""
        self._writable.set()

    async def more(self, seconds: float) -> None:
        """Wait for more bytes. Raises TimeoutError, or ClientGone when none can come."""
        if self.gone:
            raise ClientGone
        self._news.clear()
        if not self._reading and self._transport is not None:
            self._transport.resume_reading()
            self._reading = True
        size = len(self.buffer)
        async with asyncio.timeout(seconds):
            await self._news.wait()
        if len(self.buffer) == size:
            raise ClientGone

    async def write(self, data: bytes, seconds: float) -> None:
        """Send ``data``; waits while the client reads slowly, at most ``seconds``."""
        if self._transport is None:
            raise ClientGone
        self._transport.write(data)
        if not self._writable.is_set():
            try:
                async with asyncio.timeout(seconds):
                    await self._writable.wait()
            except TimeoutError:
                self.abort()
                raise ClientGone from None
        if self._transport is None:
            raise ClientGone

    async def end_writing(self) -> None:
        """Say that nothing more will be written; the other direction goes on."""
        if self._transport is not None and self._transport.can_write_eof():
            self._transport.write_eof()

    def abort(self) -> None:
        """Reset the connection at once."""
        if self._transport is not None:
            self._transport.abort()

    async def close(self, linger: float, flush: float) -> None:
        """Close after what was written is sent (at most ``flush`` seconds); reads and drops for
        ``linger`` seconds so that an answer to a request whose body was not read isn't lost to a reset."""
        transport = self._transport
        if transport is None:
            return
        if transport.can_write_eof() and not self.gone:
            transport.write_eof()
            dropped = 0
            try:
                async with asyncio.timeout(linger):
                    while dropped < 8 * _BUFFER_MAX:
                        dropped += len(self.buffer)
                        self.buffer.clear()
                        await self.more(linger)
            except (TimeoutError, ClientGone):
                pass  # either way the client had its chance to read the answer
        transport.close()
        try:
            async with asyncio.timeout(flush):
                await self._closed.wait()
        except TimeoutError:
            transport.abort()


class Exchange:
    """One request and its answer. ``start`` once, ``write`` any number of times, ``finish`` once."""

    def __init__(self, wire: Wire, head: Head, limits: Limits) -> None:
        self.head = head
        self.limits = limits
        self.started = False
        self.finished = False
        self.received = 0
        self._wire = wire
        self._decoder = BodyDecoder(head)
        self._chunked = False
        self._promised: int | None = None
        self._continue_due = head.expects_continue
        self._keep_alive = head.keep_alive

    @property
    def reusable(self) -> bool:
        """Whether the connection can carry another request."""
        return self.finished and self._keep_alive and self._decoder.done

    @contextlib.asynccontextmanager
    async def connected(self) -> AsyncIterator[None]:
        """Run the block only as long as the client is there; else cancel it and raise ClientGone."""
        loop = asyncio.get_running_loop()
        scope = asyncio.timeout(None)
        try:
            async with scope:
                self._wire.on_gone = lambda: scope.reschedule(loop.time())
                if self._wire.gone:
                    scope.reschedule(loop.time())
                try:
                    yield
                finally:
                    self._wire.on_gone = None
        except TimeoutError:
            if scope.expired():
                raise ClientGone from None
            raise

    async def body(self) -> AsyncIterator[bytes]:
        """Yield the request's body as it comes; raises BadRequest (408, 413, 400) or ClientGone."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self.limits.body_seconds
        if (self.head.length or 0) > self.limits.body_bytes:
            raise BadRequest(413, f"the body is over {self.limits.body_bytes} bytes")
        while not self._decoder.done:
            if self._continue_due:
                self._continue_due = False
                await self._wire.write(b"HTTP/1.1 100 Continue\r\n\r\n", self.limits.write_stall_seconds)
            piece = self._decoder.feed(self._wire.buffer)
            self.received += len(piece)
            if self.received > self.limits.body_bytes:
                raise BadRequest(413, f"the body is over {self.limits.body_bytes} bytes")
            if piece:
                yield piece
            elif not self._decoder.done:
                left = min(self.limits.body_idle_seconds, deadline - loop.time())
                try:
                    await self._wire.more(max(left, 0.0))
                except TimeoutError:
                    raise BadRequest(408, "the body comes too slowly") from None

    async def start(
        self, status: int, headers: Iterable[tuple[str, str]], length: int | None = None, data: bytes = b""
    ) -> None:
        """Send the head (with ``data``, the first bytes of the body). ``length`` None = chunked."""
        assert not self.started
        bodiless = self.head.method == "HEAD" or status in (204, 304)
        fields = [(n, v) for n, v in headers]
        if length is not None:
            fields.append(("content-length", str(length)))
            self._promised = 0 if bodiless else length
        elif bodiless:
            self._promised = 0
        elif self.head.version == "1.1":
            fields.append(("transfer-encoding", "chunked"))
            self._chunked = True
        else:
            self._keep_alive = False
        if not self._decoder.done:
            self._keep_alive = False
        if not self._keep_alive:
            fields.append(("connection", "close"))
        raw = response_head(status, fields)
        self.started = True
        await self._wire.write(raw + self._frame(data), self.limits.write_stall_seconds)

    def _frame(self, data: bytes) -> bytes:
        if self._promised is not None:
            data = data[: self._promised]
            self._promised -= len(data)
            return data
        if self._chunked and data:
            return b"%x\r\n%b\r\n" % (len(data), data)
        return data

    async def write(self, data: bytes) -> None:
        """Send more of the body. More than was promised is dropped."""
        framed = self._frame(data)
        if framed:
            await self._wire.write(framed, self.limits.write_stall_seconds)

    async def finish(self) -> None:
        """End the body. A body shorter than promised ends the connection instead."""
        if self._promised:
            self._wire.abort()
            raise ClientGone
        self.finished = True
        if self._chunked:
            await self._wire.write(b"0\r\n\r\n", self.limits.write_stall_seconds)

    async def answer(self, status: int, headers: Iterable[tuple[str, str]], body: bytes) -> None:
        """Send a whole answer in one piece."""
        await self.start(status, headers, len(body), body)
        await self.finish()

    async def take_over(self, raw_head: bytes) -> Wire:
        """Answer with ``raw_head`` and hand out the connection: what follows is no HTTP of ours. When the
        handler returns, the connection is closed."""
        self.started = self.finished = True
        self._keep_alive = False
        await self._wire.write(raw_head, self.limits.write_stall_seconds)
        return self._wire

    @property
    def wire(self) -> Wire:
        """The connection (to keep something with it)."""
        return self._wire

    def cut(self) -> None:
        """Break the connection so that the client can't take half a body for a whole one."""
        self._keep_alive = False
        self._wire.abort()


Handler = Callable[[Exchange], Awaitable[None]]
Refuser = Callable[[Exchange, BadRequest], Awaitable[None]]


async def serve_connection(
    wire: Wire,
    limits: Callable[[], Limits],
    handle: Handler,
    refuse: Refuser,
    parse: Callable[[bytes], Head] = parse_head,
) -> None:
    """Serve requests until the connection ends. ``refuse`` answers requests that can't be served;
    ``handle`` may raise BadRequest before it has started its answer, or ClientGone at any time."""
    first = True
    linger, flush = limits().linger_seconds, limits().write_stall_seconds
    try:
        while True:
            now = limits()
            idle = now.head_seconds if first else now.keep_alive_seconds
            exchange = await _next(wire, now, idle, refuse, parse)
            if exchange is None:
                break
            first = False
            try:
                await handle(exchange)
            except BadRequest as problem:
                if exchange.started:
                    wire.abort()
                else:
                    await refuse(exchange, problem)
                break
            if not exchange.reusable:
                break
    except ClientGone:
        linger = flush = 0.0
    except BaseException:
        wire.abort()
        raise
    finally:
        if wire.on_end is not None:
            wire.on_end()
    await wire.close(linger, flush)


async def _next(
    wire: Wire, limits: Limits, idle: float, refuse: Refuser, parse: Callable[[bytes], Head]
) -> Exchange | None:
    """Read the next head; None when the client went away, idled, or was refused."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + idle
    began = False
    finder = HeadFinder()
    try:
        while True:
            if wire.buffer and not began:
                began, deadline = True, loop.time() + limits.head_seconds
            size = finder.find(wire.buffer)
            if size:
                break
            try:
                await wire.more(max(deadline - loop.time(), 0.0))
            except TimeoutError:
                if not wire.buffer:
                    return None
                raise BadRequest(408, "the request head comes too slowly") from None
        raw = bytes(wire.buffer[:size])
        del wire.buffer[:size]
        return Exchange(wire, parse(raw), limits)
    except BadRequest as problem:
        await refuse(Exchange(wire, _UNREADABLE, limits), problem)
        return None


_UNREADABLE = Head(
    method="", target="", version="1.1", headers=(), length=0, expects_continue=False, keep_alive=False
)
