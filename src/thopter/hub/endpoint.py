"""From an ASGI request to a handler and back: one way for every route of the table."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Coroutine, Mapping
from typing import Any

from msgspec import Struct

from thopter.hub.answers import (
    BYTES_TYPE,
    JSON_TYPE,
    bad_request,
    encode,
    not_allowed,
    send_body,
    unexpected,
)
from thopter.hub.asgi import App, Message, Receive, Scope, Send, first_of, gone, headers_named
from thopter.hub.auth import OPERATOR, Holder
from thopter.hub.guard import HOLDER_KEY, TICKET_KEY, caller_source
from thopter.hub.idempotency import Answer, once, read_key
from thopter.hub.life import Hub
from thopter.hub.routes import Call, Route, Visit, parse_body, parse_query
from thopter.hub.sessions import ORIGIN_KEY
from thopter.model.api import Nothing
from thopter.model.errors import ThopterError, TimedOut

log = logging.getLogger("thopter.hub.endpoint")

BODY_SECONDS = 30.0  # for a whole JSON body
CHUNK_SECONDS = 60.0  # for the next piece of an upload
_CHUNK = 256 << 10


class PathEndpoint:
    """All methods of one path; others get 405 with ``Allow``."""

    def __init__(self, methods: Mapping[str, App]) -> None:
        self._methods = methods

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Dispatch on the method."""
        found = self._methods.get(scope["method"])
        if found is None:
            allow = ", ".join(sorted(self._methods))
            raise bad_request(f"use {allow} here", status=405, allow=allow)
        await found(scope, receive, send)


class NeedsWebSocket:
    """What plain HTTP gets at the path of a WebSocket."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Refuse with 426."""
        raise bad_request("this is a WebSocket", "connect with a WebSocket client", status=426)


class Endpoint:
    """One route as an ASGI application."""

    def __init__(self, route: Route, hub: Hub) -> None:
        self.route = route
        self.hub = hub

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Check, wait for what the route needs, run the handler, answer, note it in the log."""
        began = time.monotonic()
        try:
            await self._serve(scope, receive, send)
        except ThopterError as error:
            self._note(scope, error.http_status, began)
            raise
        self._note(scope, self.route.status, began)

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        route = self.route
        check_scope(route, scope)
        query = parse_query(route.query, scope["query_string"])
        if route.kind == "events":
            talk = route.handler(self.hub, query, scope, receive, send)
            await while_good(scope, self.hub, talk)
        elif route.kind == "upload":
            check_type(scope, b"application/octet-stream")
            call = await self._call(scope, query, Nothing(), _upload(scope, self.hub, receive))
            answer = await self._run(scope, call)
            await send_body(send, answer.status, [JSON_TYPE], answer.body)
        elif route.kind == "bytes":
            call = await self._call(scope, query, Nothing(), _no_chunks())
            await while_good(scope, self.hub, stream(receive, send, route.handler(call)))
        else:
            raw = await self._body(scope, receive)
            call = await self._call(scope, query, self._parse(scope, raw), _no_chunks())
            answer = await self._answer(scope, call, raw)
            await send_body(send, answer.status, [JSON_TYPE, *call.headers], answer.body)

    async def _body(self, scope: Scope, receive: Receive) -> bytes:
        try:
            async with asyncio.timeout(BODY_SECONDS):
                return await read_body(scope, receive, self.route.body_max)
        except TimeoutError:
            raise bad_request("the body did not come in time", status=408) from None

    def _parse(self, scope: Scope, raw: bytes) -> Struct:
        if self.route.method in ("GET", "DELETE"):
            return Nothing()
        if raw:
            check_type(scope, b"application/json")
        return parse_body(self.route.request, raw or b"{}")

    async def _call(
        self, scope: Scope, query: Struct, body: Struct, chunks: AsyncIterator[bytes]
    ) -> Call[Any, Any]:
        key = str(scope["path_params"].get(self.route.parameter, ""))
        inside = None if self.route.alone else await self.hub.parts(self.route.mutating)
        _check_good(scope, self.hub)  # it may have taken its time with the body
        return Call(
            hub=self.hub,
            inside=inside,
            key=key,
            query=query,
            body=body,
            chunks=chunks,
            holder=holder_of(scope),
            visit=_visit(scope),
        )

    async def _answer(self, scope: Scope, call: Call[Any, Any], raw: bytes) -> Answer:
        key = read_key(scope) if self.route.mutating else ""
        if not key or self.route.repeatable:
            return await self._run(scope, call)

        async def work() -> Answer:
            return await self._run(scope, call)

        if call.holder.over is not None and call.holder.name != "hub":  # nobody learns what another was told
            key = f"{call.holder.name} {key}"  # no caller's own key has a blank in it
        return await once(call.parts, scope, key, raw, self.hub.clock.now_ms(), work)

    async def _run(self, scope: Scope, call: Call[Any, Any]) -> Answer:
        try:
            value = await self.route.handler(call)
            return Answer(status=self.route.status, body=encode(value))
        except ThopterError:
            raise
        except TimeoutError:
            raise TimedOut(
                "this took too long", hint="it may still happen; look before trying again"
            ) from None
        except Exception as error:  # made into an answer that can be kept under its key
            raise unexpected(scope, error) from error

    def _note(self, scope: Scope, status: int, began: float) -> None:
        level = logging.INFO if self.route.mutating or status >= 500 else logging.DEBUG
        if log.isEnabledFor(level):
            ms = round((time.monotonic() - began) * 1000, 1)
            data = {"method": self.route.method, "path": scope["path"], "status": status, "ms": ms}
            log.log(level, "request", extra={"data": data})


def check_scope(route: Route, scope: Scope) -> None:
    """Raise NotAllowed unless the caller's token carries the route's scope."""
    if scope.get(TICKET_KEY) and route.kind not in ("events", "exec"):
        raise not_allowed("a ticket opens a WebSocket or a stream of events, nothing else", status=401)
    if route.scope not in holder_of(scope).scopes:
        raise not_allowed(f"this token may not do this; it needs the scope {route.scope!r}")


def holder_of(scope: Scope) -> Holder:
    """Who calls, as the guard found out."""
    found = scope[HOLDER_KEY]
    assert isinstance(found, Holder)
    return found


def _visit(scope: Scope) -> Visit:
    agent = headers_named(scope, b"user-agent")[:1]
    origin = "" if scope[HOLDER_KEY] is OPERATOR else str(scope[ORIGIN_KEY])
    return Visit(caller_source(scope), origin, b"".join(agent).decode("latin-1"))


async def while_good(scope: Scope, hub: Hub, talk: Coroutine[Any, Any, None]) -> None:
    """Go on with a conversation for as long as the caller's token is good; cut it off then."""
    holder = holder_of(scope)
    if holder.over is None:
        await talk
    else:
        await first_of(talk, holder.ended(hub.clock))


def _check_good(scope: Scope, hub: Hub) -> None:
    if not holder_of(scope).good(hub.clock.now_ms()):
        raise not_allowed("this token is not good any more", status=401)


def check_type(scope: Scope, wanted: bytes) -> None:
    """Raise 415 unless the body is said to be ``wanted``: a web page can't send that elsewhere
    without asking first."""
    given = headers_named(scope, b"content-type")
    if not given and headers_named(scope, b"content-length") == [b"0"]:
        return  # there is nothing to have a type
    if len(given) != 1 or given[0].partition(b";")[0].strip().lower() != wanted:
        raise bad_request(f"the body must be {wanted.decode()}", "set Content-Type", status=415)


async def read_body(scope: Scope, receive: Receive, most: int) -> bytes:
    """Read a whole body of at most ``most`` bytes."""
    for value in headers_named(scope, b"content-length"):
        if value.isdigit() and int(value) > most:
            raise _too_big(most)
    parts: list[bytes] = []
    size = 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise bad_request("the client went away in the middle of its request")
        parts.append(message.get("body", b""))
        size += len(parts[-1])
        if size > most:
            raise _too_big(most)
        if not message.get("more_body"):
            return b"".join(parts)


def _too_big(most: int) -> ThopterError:
    return bad_request(f"the body is over {most} bytes", status=413)


async def _upload(scope: Scope, hub: Hub, receive: Receive) -> AsyncIterator[bytes]:
    """The body piece by piece. A client that goes away, stalls, or may not any more (its token was revoked
    or has expired) raises, so that no half file is taken for a whole one."""
    while True:
        try:
            async with asyncio.timeout(CHUNK_SECONDS):
                message = await _piece(scope, hub, receive)
        except TimeoutError:
            raise bad_request("the upload stalled", status=408) from None
        if message["type"] == "http.disconnect":
            raise bad_request("the client went away in the middle of its upload")
        body = message.get("body", b"")
        if body:
            yield body
        if not message.get("more_body"):
            return


async def _piece(scope: Scope, hub: Hub, receive: Receive) -> Message:
    """The next message of a body, while its sender's token is good."""
    found: list[Message] = []

    async def take() -> None:
        found.append(await receive())

    await while_good(scope, hub, take())
    _check_good(scope, hub)
    return found[0]


async def _no_chunks() -> AsyncIterator[bytes]:
    nothing: tuple[bytes, ...] = ()
    for each in nothing:
        yield each


async def stream(receive: Receive, send: Send, chunks: AsyncIterator[bytes]) -> None:
    """Send chunks as they come. An error before the first is an ordinary error answer; one in the
    middle cuts the connection; a client that goes away ends the source."""
    first = await anext(chunks, b"")
    headers = [BYTES_TYPE, (b"content-disposition", b"attachment")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})

    async def pump() -> None:
        await _send_pieces(send, first)
        async for chunk in chunks:
            await _send_pieces(send, chunk)
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    try:
        await first_of(pump(), gone(receive))
    finally:
        close = getattr(chunks, "aclose", None)
        if close is not None:
            await close()


async def _send_pieces(send: Send, data: bytes) -> None:
    for at in range(0, len(data), _CHUNK):
        await send({"type": "http.response.body", "body": data[at : at + _CHUNK], "more_body": True})
