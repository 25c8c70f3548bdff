"""Uvicorn's protocols with bounds on what a client may hold: time for a head, its size, idle
connections, and answers that nobody takes."""

from __future__ import annotations

import asyncio
import base64
import binascii
import select
from typing import Any

from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from uvicorn.server import ServerState

from thopter.hub.answers import (
    SECURITY_HEADERS,
    bad_request,
    error_body,
    error_headers,
)
from thopter.hub.peer import peer_of
from thopter.model.errors import HubUnreachable, ThopterError

HEAD_SECONDS = 10.0
HEAD_BYTES = 32 << 10
IDLE_MAX = 512
CONNECTIONS_MAX = 3000
STALL_SECONDS = 30.0
DROPPED_BYTES = 16 << 20
PONG_BYTES = 2 << 20
_WS_HEADERS, _WS_LINE = 100, 8000  # the WebSocket library takes 128 lines of 8,192 bytes
HUNG_UP = "thopter.hung_up"
_GONE = getattr(select, "POLLRDHUP", 0) | select.POLLHUP | select.POLLERR


class Lobby:
    """The connections of one door. Those without a request under way are few (``IDLE_MAX``): when
    one more comes, the one that has waited longest goes, so half-open ones can't keep others out."""

    def __init__(self) -> None:
        self.idle: dict[HubHttp, None] = {}
        self.all: set[HubHttp | HubWebSocket] = set()

    def joined(self, one: HubHttp | HubWebSocket) -> None:
        """A connection was made, or became a WebSocket."""
        self.all.add(one)

    def left(self, one: HubHttp | HubWebSocket) -> None:
        """A connection is over."""
        self.all.discard(one)
        if isinstance(one, HubHttp):
            self.idle.pop(one, None)

    def waits(self, one: HubHttp) -> None:
        """``one`` has no request under way from now on."""
        self.idle.pop(one, None)
        self.idle[one] = None
        if len(self.idle) > IDLE_MAX or len(self.all) > CONNECTIONS_MAX:
            oldest = next(iter(self.idle))
            self.left(oldest)
            oldest.transport.abort()

    def works(self, one: HubHttp) -> None:
        """``one`` has a request under way."""
        self.idle.pop(one, None)


class HubHttp(HttpToolsProtocol):
    """HTTP/1.1 with bounds; see the module."""

    def __init__(self, config: Config, server_state: ServerState, lobby: Lobby) -> None:
        super().__init__(config, server_state, {})
        self._lobby = lobby
        self._in_head = False  # between the first byte of a head and its last
        self._heads = 0
        self._head_bytes = 0
        self._dropped = 0
        self._head_timer: asyncio.TimerHandle | None = None
        self._stall_timer: asyncio.TimerHandle | None = None
        self._refusal: ThopterError | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """A client connected: it has ``HEAD_SECONDS`` to say what it wants."""
        super().connection_made(transport)
        self.client = self.client or peer_of(transport)
        self._lobby.joined(self)
        self._lobby.waits(self)
        self._expect_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """It went away."""
        self._lobby.left(self)
        self._cancel_timers()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Bytes came; a head that does not end is cut off."""
        if self.transport.is_closing():
            return
        inside, heads = self._in_head, self._heads
        between = not inside and (self.cycle is None or not self.cycle.more_body)
        super().data_received(data)
        same_head = (inside and self._heads == heads) or (between and self._heads == heads + 1)
        if self._in_head and same_head:  # then all of the data belonged to it
            self._head_bytes += len(data)
            if self._head_bytes > HEAD_BYTES and not self.transport.is_closing():
                self._refuse(_too_large())

    def on_message_begin(self) -> None:
        """A head begins."""
        super().on_message_begin()
        self._in_head = True
        self._heads += 1
        self._expect_head()

    def on_headers_complete(self) -> None:
        """A head is complete: refuse what must not reach the application at all."""
        self._in_head = False
        self._cancel_head_timer()
        self._refusal = self._objection()
        if self._refusal is not None:
            raise ValueError(self._refusal.message)  # the parser stops; send_400_response says why
        self._lobby.works(self)
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """A piece of a body. What comes after the answer is dropped, up to ``DROPPED_BYTES``: a
        client that is still sending can read why it was refused."""
        if self.cycle is not None and self.cycle.response_complete:
            self._dropped += len(body)
            if self._dropped > DROPPED_BYTES:
                self.transport.abort()
        super().on_body(body)

    def on_response_complete(self) -> None:
        """An answer is out."""
        super().on_response_complete()
        if not self.pipeline and self in self._lobby.all:
            self._lobby.waits(self)

    def send_400_response(self, msg: str) -> None:
        """Refuse what can't be parsed, with the same headers as every other answer."""
        self._refuse(self._refusal or bad_request("this is not an HTTP request"))

    def handle_websocket_upgrade(self) -> None:
        """Hand the connection over to the WebSocket protocol."""
        self._cancel_timers()
        self._lobby.left(self)
        self.connections.discard(self)
        head = [self.scope["method"].encode(), b" ", self.url, b" HTTP/1.1\r\n"]
        for name, value in self.scope["headers"]:
            head += [name, b": ", value, b"\r\n"]
        protocol = HubWebSocket(self.config, self.server_state, self._lobby)
        protocol.connection_made(self.transport)
        protocol.data_received(b"".join([*head, b"\r\n"]))
        self.transport.set_protocol(protocol)
        if not protocol.handshake_initiated:  # it choked on the head: nobody would ever answer
            self.transport.abort()

    def pause_writing(self) -> None:
        """The client does not take what we send: it has ``STALL_SECONDS`` to take some of it."""
        super().pause_writing()
        self._watch_stall(self.transport.get_write_buffer_size())

    def resume_writing(self) -> None:
        """It took enough."""
        if self._stall_timer is not None:
            self._stall_timer.cancel()
            self._stall_timer = None
        super().resume_writing()

    def _watch_stall(self, left_then: int) -> None:
        def look() -> None:
            left = self.transport.get_write_buffer_size()
            if left >= left_then:
                self.transport.abort()
            else:
                self._watch_stall(left)

        self._stall_timer = self.loop.call_later(STALL_SECONDS, look)

    def _expect_head(self) -> None:
        self._head_bytes = 0
        self._cancel_head_timer()
        self._head_timer = self.loop.call_later(HEAD_SECONDS, self._head_late)

    def _head_late(self) -> None:
        if self._answering():  # it is we who have not read the rest of this head yet
            self._expect_head()
        elif not self.transport.is_closing():
            self._refuse(bad_request("no complete request came in time", status=408))

    def _cancel_head_timer(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _cancel_timers(self) -> None:
        self._cancel_head_timer()
        if self._stall_timer is not None:
            self._stall_timer.cancel()
            self._stall_timer = None

    def _objection(self) -> ThopterError | None:
        size = len(self.url) + sum(len(name) + len(value) + 4 for name, value in self.headers)
        if size > HEAD_BYTES:
            return _too_large()
        if not self.url.startswith(b"/"):
            return bad_request("the request must name a path, not an address")
        if len(self._lobby.all) > CONNECTIONS_MAX:
            return HubUnreachable("the hub has too many connections", hint="close some", retry_after=1)
        if self._get_upgrade() == b"websocket" and not _sound_handshake(
            self.parser.get_method(), self.headers
        ):
            return bad_request("this is not a WebSocket handshake of version 13")
        return None

    def _answering(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def _refuse(self, error: ThopterError) -> None:
        if self._answering():
            mine = self.cycle.more_body and not self.cycle.response_started and not self.pipeline
            if not mine:  # another request's answer is due on this connection: do not mix with it
                self.transport.abort()
                return
        body = error_body(error)
        headers = [
            *error_headers(error),
            *SECURITY_HEADERS,
            (b"content-length", str(len(body)).encode()),
            (b"connection", b"close"),
        ]
        lines = b"".join(name + b": " + value + b"\r\n" for name, value in headers)
        self.transport.write(STATUS_LINE[error.http_status] + lines + b"\r\n" + body)
        self.transport.close()


class HubWebSocket(WebSocketsSansIOProtocol):
    """WebSocket that counts in the lobby, can tell that its peer hung up while reading is paused,
    and keeps no heap of answers to pings."""

    def __init__(self, config: Config, server_state: ServerState, lobby: Lobby) -> None:
        super().__init__(config, server_state, {})
        self._lobby = lobby

    def connection_made(self, transport: Any) -> None:
        """The HTTP connection became this."""
        super().connection_made(transport)
        self.client = self.client or peer_of(transport)
        self._lobby.joined(self)

    def connection_lost(self, exc: Exception | None) -> None:
        """It is over."""
        self._lobby.left(self)
        super().connection_lost(exc)

    def handle_ping(self) -> None:
        """Answer a ping; who sends many and takes no answers is cut off. (Not reading on instead
        would hold up a client that sends while it does not read, which terminals allow.)"""
        super().handle_ping()
        if self.transport.get_write_buffer_size() > PONG_BYTES:
            self.transport.abort()

    async def run_asgi(self) -> None:
        """Run the application, which finds :meth:`hung_up` among the scope's extensions."""
        extensions: dict[str, Any] = dict(self.scope.get("extensions") or {})
        extensions[HUNG_UP] = self.hung_up
        self.scope["extensions"] = extensions
        await super().run_asgi()

    def hung_up(self) -> bool:
        """True when the peer has closed its end, also while nothing is read."""
        sock = self.transport.get_extra_info("socket")
        if sock is None or self.transport.is_closing() or sock.fileno() < 0:
            return True
        poll = select.poll()
        poll.register(sock.fileno(), _GONE)
        return bool(poll.poll(0))


def _too_large() -> ThopterError:
    return bad_request(f"the head of the request is over {HEAD_BYTES} bytes", status=431)


def _sound_handshake(method: bytes, headers: list[tuple[bytes, bytes]]) -> bool:
    """True for what the WebSocket library will accept: its own refusals lack our headers."""
    if len(headers) > _WS_HEADERS or any(len(name) + len(value) > _WS_LINE for name, value in headers):
        return False
    found: dict[bytes, list[bytes]] = {}
    for name, value in headers:
        found.setdefault(name, []).append(value)
    keys = found.get(b"sec-websocket-key", [])
    try:
        key_ok = len(keys) == 1 and len(base64.b64decode(keys[0].strip(), validate=True)) == 16
    except binascii.Error:
        return False
    version_ok = [value.strip() for value in found.get(b"sec-websocket-version", [])] == [b"13"]
    bodyless = b"transfer-encoding" not in found and found.get(b"content-length", [b"0"]) == [b"0"]
    one_upgrade = len(found.get(b"upgrade", [])) == 1
    return method == b"GET" and key_ok and version_ok and bodyless and one_upgrade
