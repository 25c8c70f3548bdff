"""Commands in a box over a WebSocket: bytes both ways with backpressure, half-close, size, signals.

Client: one text message (ExecRequest), then binary ``0 + data`` for stdin, and text ``{"eof":0}``,
``{"resize":[rows,cols]}``, ``{"signal":"INT"}``. Hub: text ``{"started":{"window":n}}``, binary
``1|2 + data``, ``{"taken":n}``, and last one of ``{"exit":n}``, ``{"signal":n}``, ``{"error":{…}}``,
then it closes. A client that goes away ends the session.

A client that keeps what it sent within ``window`` bytes of what was ``taken`` is never held up: its
signals get through, and it can't lock itself up by sending while it does not read. One that does
not is held back by the socket.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import Annotated, Any, TypeVar

import msgspec
from msgspec import Meta, Struct

from thopter.hub.answers import bad_request, encode, unexpected
from thopter.hub.asgi import Message, Receive, Scope, Send, first_of
from thopter.hub.life import Hub
from thopter.hub.ports import FleetPort, Json
from thopter.hub.ports.works import ExecSession
from thopter.hub.protocol import HUNG_UP
from thopter.hub.routes import parse_body
from thopter.model.api import ExecRequest
from thopter.model.errors import BadInput, HubUnreachable, ThopterError

FIRST_MESSAGE_SECONDS = 10.0
STDIN_ROOM = 1 << 20
_LOOK = 1.0
_OUT = 256 << 10
_TELL = 128 << 10
_NORMAL, _BAD_MESSAGE, _FAILED, _GOING_AWAY = 1000, 1008, 1011, 1001

R = TypeVar("R", bound=Struct)
Opened = AbstractAsyncContextManager[ExecSession]
Starter = Callable[[FleetPort, R], Opened]
Cells = Annotated[int, Meta(ge=1, le=65535)]


class Control(Struct, kw_only=True):
    """A text message of the client after the first; unknown fields are ignored."""

    eof: int | None = None
    resize: tuple[Cells, Cells] | None = None
    signal: Annotated[str, Meta(pattern="^[A-Z0-9+-]{1,10}$")] | None = None


class _ClientGone(Exception):
    """The client closed, or vanished."""


async def exec_command(hub: Hub, name: str, scope: Scope, receive: Receive, send: Send) -> None:
    """Serve one WebSocket that runs a command; the caller has checked who it is."""

    def start(fleet: FleetPort, request: ExecRequest) -> Opened:
        size = (request.pty.rows, request.pty.cols) if request.pty is not None else None
        return fleet.works.exec(name, request.argv, request.env, request.cwd or None, size, request.stdin)

    await converse(hub, (ExecRequest, check_exec, start), scope, receive, send)


async def converse(
    hub: Hub,
    what: tuple[type[R], Callable[[R], None], Starter[R]],
    scope: Scope,
    receive: Receive,
    send: Send,
) -> None:
    """Serve one WebSocket: read a request of the type, check it, start it, carry bytes to its end."""
    kind, check, start = what
    if (await receive())["type"] != "websocket.connect":
        return
    await send({"type": "websocket.accept"})
    try:
        request = await _first_message(receive, kind)
        check(request)
        parts = await hub.parts(mutating=True)
        ended = await _run(hub, start(parts.fleet, request), _Line(scope, receive, send))
        await _finish(send, ended, _NORMAL)
    except _ClientGone:
        return
    except ThopterError as error:
        code = _BAD_MESSAGE if isinstance(error, BadInput) or error.code == BadInput.code else _FAILED
        code = _GOING_AWAY if hub.ending else code
        await _finish(send, {"error": error.to_dict()}, code)
    except Exception as error:  # noqa: BLE001 - the boundary: the client hears an id
        await _finish(send, {"error": unexpected(scope, error).to_dict()}, _FAILED)


async def _first_message(receive: Receive, kind: type[R]) -> R:
    try:
        async with asyncio.timeout(FIRST_MESSAGE_SECONDS):
            message = await receive()
    except TimeoutError:
        raise bad_request("no request came in time", "the first message says what to run") from None
    if message["type"] == "websocket.disconnect":
        raise _ClientGone
    text = message.get("text")
    if text is None:
        raise bad_request("the first message must be text", "send the request as JSON")
    request = parse_body(kind, text.encode("utf-8", "replace"))
    assert isinstance(request, kind)
    return request


def check_exec(request: ExecRequest) -> None:
    """BadInput for what no process can be given."""
    strings = [*request.argv, request.cwd, *(request.env or {}), *(request.env or {}).values()]
    if any("\0" in each for each in strings):
        raise BadInput("a command can't have a NUL character in it")
    if any(not each or "=" in each for each in request.env or {}):
        raise BadInput("the name of an environment variable is empty or has '=' in it")


async def _run(hub: Hub, command: Opened, line: _Line) -> Json:
    """Run the command; return the last message."""
    ended: Json = {}
    why: Exception | None = None
    async with command as session:
        try:
            await _converse(hub, session, line, ended)
        except (ThopterError, _ClientGone) as error:
            why = error  # raised below: passing through the session it would come out as a group
    if why is not None:
        raise why
    if not ended:
        raise HubUnreachable("the hub is stopping", hint="start it again and look what became of it")
    return ended


async def _converse(hub: Hub, session: ExecSession, line: _Line, ended: Json) -> None:
    await line.say({"started": {"window": STDIN_ROOM}})

    async def output() -> None:
        async for stream, data in session:
            await line.data(stream, data)
        kind, number = await session.wait()
        ended[kind] = number

    stdin = _Stdin(line)
    await first_of(output(), _input(line, session, stdin), stdin.feed(session), hub.wait_end())


async def _input(line: _Line, session: ExecSession, stdin: _Stdin) -> None:
    while True:
        message = await line.receive()
        data, text = message.get("bytes"), message.get("text")
        if message["type"] == "websocket.disconnect":
            raise _ClientGone
        if data:
            if data[0] != 0:
                raise bad_request("binary messages of the client begin with byte 0 (stdin)")
            await stdin.put(data[1:])
        elif text is not None:
            await _control(text, session, stdin)


async def _control(text: str, session: ExecSession, stdin: _Stdin) -> None:
    try:
        control = msgspec.json.decode(text, type=Control)
    except (msgspec.MsgspecError, UnicodeError, RecursionError) as e:
        raise bad_request(f"not a control message: {e}") from None
    if control.resize is not None:
        await session.resize(*control.resize)
    if control.signal is not None:
        await session.signal(control.signal)
    if control.eof is not None:
        await stdin.put(None)


class _Line:
    """The client's end: sends messages, tells when it hung up."""

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.receive = receive
        self._send = send
        self.hung_up: Callable[[], bool] = scope["extensions"][HUNG_UP]

    async def say(self, message: Json) -> None:
        await self._put({"type": "websocket.send", "text": encode(message).decode()})

    async def data(self, stream: int, data: bytes) -> None:
        mark = bytes((stream,))
        for at in range(0, len(data), _OUT):
            await self._put({"type": "websocket.send", "bytes": mark + data[at : at + _OUT]})

    async def _put(self, message: Message) -> None:
        try:
            await self._send(message)
        except OSError:
            raise _ClientGone from None


class _Stdin:
    """What the client has sent and the command has not taken yet. While that is over ``STDIN_ROOM``
    nothing is read from the client, so one that vanishes meanwhile is looked for once a second."""

    def __init__(self, line: _Line) -> None:
        self._line = line
        self._waiting: deque[bytes | None] = deque()
        self._size = 0
        self._filled = asyncio.Event()
        self._taken = asyncio.Event()

    async def put(self, data: bytes | None) -> None:
        """Add data, or None for the end of input; waits while there is too much."""
        self._waiting.append(data)
        self._size += len(data or b"")
        self._filled.set()
        while self._size > STDIN_ROOM:
            self._taken.clear()
            try:
                async with asyncio.timeout(_LOOK):
                    await self._taken.wait()
            except TimeoutError:
                if self._line.hung_up():
                    raise _ClientGone from None

    async def feed(self, session: ExecSession) -> None:
        """Give it to the command, for as long as that runs, and tell the client how much it took."""
        untold = 0
        while True:
            await self._filled.wait()
            self._filled.clear()
            while self._waiting:
                data = self._waiting[0]
                await (session.eof() if data is None else session.write(data))
                self._waiting.popleft()
                self._size -= len(data or b"")
                self._taken.set()
                untold += len(data or b"")
                if untold >= _TELL or (untold and not self._waiting):
                    await self._line.say({"taken": untold})
                    untold = 0


async def _finish(send: Send, last: dict[str, Any], code: int) -> None:
    try:
        await send({"type": "websocket.send", "text": encode(last).decode()})
        await send({"type": "websocket.close", "code": code})
    except OSError:
        return  # the client has gone; there is nobody to tell
