"""A very small HTTP/1.1 server for tests: one send per answer, and the power to misbehave on purpose.

Ordinary servers will not stall for ever, cut a body in the middle or tell when the client went away.
Requests on one connection are answered one after the other; a body over :data:`BODY_MAX` is refused.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Mapping
from http import HTTPStatus
from types import TracebackType
from urllib.parse import parse_qs, unquote, urlsplit

import httptools
from msgspec import Struct

from thopter.model.errors import Conflict, ThopterError

BODY_MAX = 64 << 20


class Request(Struct, frozen=True, kw_only=True):
    """One request; header names are lower case, ``query`` has the last value of each name."""

    method: str
    path: str
    query: Mapping[str, str]
    headers: Mapping[str, str]
    body: bytes


class Gone(Exception):
    """The client closed the connection while it was being answered."""


class Reply:
    """How a handler answers one request: ``send`` once, or ``start``, ``write``…, ``finish``."""

    def __init__(self, wire: _Wire, *, head_only: bool, keep_alive: bool) -> None:
        self._wire = wire
        self._head_only = head_only
        self._keep_alive = keep_alive
        self.begun = False
        self.done = False

    async def send(self, status: int, body: bytes = b"", headers: Mapping[str, str] | None = None) -> None:
        """Send the whole answer in a single write (a delayed ACK costs 40 ms otherwise)."""
        fields = {"content-length": str(len(body)), **(headers or {})}
        self.begun = self.done = True
        await self._wire.write(self._head(status, fields) + (b"" if self._head_only else body))

    async def start(self, status: int, headers: Mapping[str, str]) -> None:
        """Begin a chunked answer."""
        self.begun = True
        await self._wire.write(self._head(status, {"transfer-encoding": "chunked", **headers}))

    async def write(self, data: bytes) -> None:
        """Send one chunk."""
        if data:
            await self._wire.write(b"%x\r\n%s\r\n" % (len(data), data))

    async def finish(self) -> None:
        """End a chunked answer properly."""
        self.done = True
        await self._wire.write(b"0\r\n\r\n")

    async def pause(self, seconds: float | None) -> None:
        """Let time pass (None: for ever); :class:`Gone` when the client leaves meanwhile."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._wire.closed.wait()
        if self._wire.closed.is_set():
            raise Gone

    def drop(self) -> None:
        """Cut the connection at once; what was written before is still delivered."""
        self.done = True
        self._wire.hang_up()

    def _head(self, status: int, fields: Mapping[str, str]) -> bytes:
        try:
            phrase = HTTPStatus(status).phrase
        except ValueError:
            phrase = "Overloaded" if status == 529 else "Unknown"
        lines = [f"HTTP/1.1 {status} {phrase}", *(f"{k}: {v}" for k, v in fields.items())]
        lines.append("connection: " + ("keep-alive" if self._keep_alive else "close"))
        return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1", "replace")


Handler = Callable[[Request, Reply], Awaitable[None]]


class _Wire(asyncio.Protocol):
    """One connection: bytes in become requests, answers go out with back-pressure."""

    def __init__(self, opened: Callable[[_Wire], None]) -> None:
        self._opened = opened
        self._parser = httptools.HttpRequestParser(self)
        self._requests: asyncio.Queue[Request | None] = asyncio.Queue()
        self._room = asyncio.Event()
        self._room.set()
        self.closed = asyncio.Event()
        self.transport: asyncio.Transport | None = None

    # -- asyncio.Protocol
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        self._opened(self)

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            self.hang_up()

    def connection_lost(self, exc: Exception | None) -> None:
        self.closed.set()
        self._room.set()
        self._requests.put_nowait(None)

    def pause_writing(self) -> None:
        self._room.clear()

    def resume_writing(self) -> None:
        self._room.set()

    # -- httptools callbacks
    def on_message_begin(self) -> None:
        self._url = b""
        self._headers: dict[str, str] = {}
        self._body = bytearray()

    def on_url(self, url: bytes) -> None:
        self._url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers[name.decode("latin-1").lower()] = value.decode("latin-1")

    def on_headers_complete(self) -> None:
        if self._headers.get("expect", "").lower() == "100-continue" and self.transport:
            self.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def on_body(self, body: bytes) -> None:
        self._body += body
        if len(self._body) > BODY_MAX:
            self.hang_up()

    def on_message_complete(self) -> None:
        parts = urlsplit(self._url.decode("latin-1"))
        query = {k: v[-1] for k, v in parse_qs(parts.query, keep_blank_values=True).items()}
        self._requests.put_nowait(
            Request(
                method=self._parser.get_method().decode("latin-1"),
                path=unquote(parts.path),
                query=query,
                headers=self._headers,
                body=bytes(self._body),
            )
        )

    # -- for the handler
    async def next_request(self) -> Request | None:
        """Wait for the next request; None when the client is gone."""
        return await self._requests.get()

    async def write(self, data: bytes) -> None:
        """Write, waiting while the client does not read; :class:`Gone` when it left."""
        await self._room.wait()
        if self.closed.is_set() or self.transport is None or self.transport.is_closing():
            raise Gone
        self.transport.write(data)

    def hang_up(self) -> None:
        """Close after what was written has gone out."""
        if self.transport is not None:
            self.transport.close()


class Server:
    """An async context manager that serves ``handler`` on ``host:port`` (0 = any free port).

    A handler that raises is a bug of the test: the error leaves the ``async with`` block. Nothing
    outlives the block.
    """

    def __init__(self, handler: Handler, host: str = "127.0.0.1", port: int = 0) -> None:
        self._handler = handler
        self._host, self.port = host, port
        self._stack = contextlib.AsyncExitStack()
        self._wires: set[_Wire] = set()

    @property
    def url(self) -> str:
        """Where it listens, such as ``http://127.0.0.1:43211``."""
        host = f"[{self._host}]" if ":" in self._host else self._host
        return f"http://{host}:{self.port}"

    async def __aenter__(self) -> Server:
        self._group = await self._stack.enter_async_context(asyncio.TaskGroup())
        try:
            listener = await asyncio.get_running_loop().create_server(
                lambda: _Wire(self._opened), self._host, self.port
            )
        except OSError as e:
            raise Conflict(
                f"cannot listen on {self._host}:{self.port}: {e.strerror}", hint="choose another --port"
            ) from None
        self._stack.callback(self._close, listener)
        self.port = listener.sockets[0].getsockname()[1]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # The block's own error goes out as it is; only a handler's comes as an ExceptionGroup.
        await self._stack.aclose()

    def _close(self, listener: asyncio.Server) -> None:
        listener.close()
        for wire in list(self._wires):
            if wire.transport is not None:
                wire.transport.abort()

    def _opened(self, wire: _Wire) -> None:
        self._wires.add(wire)
        self._group.create_task(self._serve(wire))

    async def _serve(self, wire: _Wire) -> None:
        try:
            while (request := await wire.next_request()) is not None:
                keep = request.headers.get("connection", "").lower() != "close"
                reply = Reply(wire, head_only=request.method == "HEAD", keep_alive=keep)
                await self._answer(request, reply)
                if not (keep and reply.done):
                    break
        except Gone:
            return
        finally:
            wire.hang_up()
            self._wires.discard(wire)

    async def _answer(self, request: Request, reply: Reply) -> None:
        try:
            await self._handler(request, reply)
        except ThopterError as e:
            if reply.begun:
                raise
            body = f'{{"error": {{"code": "{e.code}"}}}}'.encode()
            await reply.send(e.http_status, body, {"content-type": "application/json"})
