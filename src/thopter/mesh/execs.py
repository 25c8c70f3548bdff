"""A command in a box over the hub's WebSocket: input, output, size, signals, and how it ended.

One thread and no hidden ones: input may wait for room while output comes, so both directions are
moved by one loop. (The library's own blocking client holds a lock while it sends: with both ends
waiting for the other to read, it never goes on.) The library does the framing, we do the I/O.
"""

from __future__ import annotations

import contextlib
import select
import time
from collections import deque
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import msgspec
from msgspec import Struct
from websockets.client import ClientProtocol
from websockets.exceptions import InvalidStatus, WebSocketException
from websockets.frames import Frame, Opcode
from websockets.uri import parse_uri

from thopter.mesh.http import connect as open_socket
from thopter.model.api import ExecRequest
from thopter.model.api.ports import DialRequest
from thopter.model.errors import BadInput, HubUnreachable, ThopterError, from_dict

_FIRST = 64 << 10  # bytes of input that may go before the hub has said how much it keeps
_PIECE = 64 << 10  # of input in one message
_MESSAGE_MAX = 2 << 20
_OPEN_SECONDS = 60.0  # a hub that has just started recovers first


class Ended(Struct, frozen=True):
    """How a command ended: ``exit`` with its code or ``signal`` with the signal's number."""

    how: Literal["exit", "signal"]
    code: int

    @property
    def status(self) -> int:
        """The exit status a shell would give: the code, or 128 + signal."""
        return self.code if self.how == "exit" else 128 + self.code


class Exec:
    """One running command, or one connection to a port; for one thread.

    Simple use: :meth:`write`, :meth:`eof`, and iterate: ``(stream, data)`` (1 output, 2 errors)
    until it has ended; then :attr:`ended` says how. In a loop of one's own: wait for :meth:`fileno`
    to be readable (and writable while :attr:`pending`), call :meth:`move`, take from
    :attr:`output`, and :meth:`give` at most :attr:`room` bytes of input.

    Not reading holds the command back. Errors: what the hub says (NotFound, NotNow, …), or
    HubUnreachable when the connection breaks; :meth:`close` before the end ends the command.
    """

    def __init__(self, path: Path, target: str, request: ExecRequest | DialRequest) -> None:
        if isinstance(request, ExecRequest) and any("\0" in arg for arg in request.argv):
            raise BadInput("an argument of the command holds a NUL byte")
        try:
            first = msgspec.json.encode(request)
        except (UnicodeEncodeError, ValueError):
            raise BadInput("the command is not UTF-8 text") from None
        self.ended: Ended | None = None
        self.started = False
        self.output: deque[tuple[int, bytes]] = deque()
        self._protocol = ClientProtocol(parse_uri("ws://localhost" + target), max_size=_MESSAGE_MAX)
        self._out = bytearray()
        self._window = _FIRST  # of input that the hub has not said to be taken
        self._untaken = 0
        self._part: tuple[Opcode, list[bytes]] | None = None
        self._sock = open_socket(path, 10.0)
        try:
            self._open()
            self._protocol.send_text(first)
            self._sock.setblocking(False)
            self.move()
        except BaseException:
            self._sock.close()
            raise

    def __enter__(self) -> Exec:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def fileno(self) -> int:
        """The descriptor to wait for."""
        return self._sock.fileno()

    @property
    def pending(self) -> int:
        """Bytes that wait to be sent."""
        return len(self._out)

    @property
    def room(self) -> int:
        """Bytes of input that may be given now. The hub says what it takes, so that signals, sizes
        and the end of input never wait behind input that nobody reads."""
        return max(self._window - self._untaken, 0)

    def close(self) -> None:
        """Let go; a command that has not ended is ended by the hub."""
        self._sock.close()

    def give(self, data: bytes) -> None:
        """Queue input. What comes after the command's end is dropped."""
        for at in range(0, len(data), _PIECE):
            self._protocol.send_binary(b"\0" + data[at : at + _PIECE])
        self._untaken += len(data)
        self._collect()

    def eof(self) -> None:
        """End its input."""
        self._say('{"eof":0}')

    def resize(self, rows: int, cols: int) -> None:
        """Tell it the terminal's size."""
        self._say(f'{{"resize":[{max(rows, 1)},{max(cols, 1)}]}}')

    def signal(self, name: str) -> None:
        """Send it a signal by name, without ``SIG``."""
        self._say(msgspec.json.encode({"signal": name}).decode())

    def move(self) -> None:
        """Send and receive what is possible now, without waiting."""
        self._collect()
        if self._out:
            with contextlib.suppress(BlockingIOError, BrokenPipeError, ConnectionResetError):
                del self._out[: self._sock.send(self._out)]
        try:
            data = self._sock.recv(256 << 10)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if data:
            self._protocol.receive_data(data)
        else:
            self._protocol.receive_eof()
        self._take_all(self._protocol.events_received())
        self._collect()
        if not data and self.ended is None:
            raise HubUnreachable("the connection to the hub broke off; the command was ended")

    def wait_open(self) -> None:
        """Wait until the hub has said that it is under way (a connection: that it stands)."""
        while not self.started and self.ended is None:
            self._wait()

    def write(self, data: bytes) -> None:
        """Give input, waiting for room; output that comes meanwhile is kept."""
        at = 0
        while at < len(data) and self.ended is None:
            if self.room:
                piece = data[at : at + self.room]
                self.give(piece)
                at += len(piece)
            else:
                self._wait()

    def __iter__(self) -> Iterator[tuple[int, bytes]]:
        while True:
            while self.output:
                yield self.output.popleft()
            if self.ended is not None:
                return
            self._wait()

    def _wait(self) -> None:
        select.select([self._sock], [self._sock] if self._out else [], [])
        self.move()

    def _say(self, text: str) -> None:
        self._protocol.send_text(text.encode())
        self._collect()

    def _collect(self) -> None:
        for data in self._protocol.data_to_send():
            self._out += data

    def _take_all(self, events: Sequence[object]) -> None:
        for event in events:
            if isinstance(event, Frame) and self.ended is None:
                self._take(event)

    def _take(self, frame: Frame) -> None:
        """Put fragments together; what a message says is in its first byte or its JSON."""
        if frame.opcode is not Opcode.CONT and frame.opcode not in (Opcode.TEXT, Opcode.BINARY):
            return
        opcode, parts = self._part or (frame.opcode, [])
        parts.append(bytes(frame.data))
        self._part = None if frame.fin else (opcode, parts)
        if not frame.fin:
            return
        data = b"".join(parts)
        if opcode is Opcode.TEXT:
            self._hear(data)
        elif data[:1] in (b"\1", b"\2"):
            self.output.append((data[0], data[1:]))

    def _hear(self, data: bytes) -> None:
        try:
            said = msgspec.json.decode(data, type=dict[str, Any])
        except (msgspec.MsgspecError, UnicodeDecodeError):
            raise HubUnreachable("what answers is not a hub: a message that is no JSON") from None
        error = said.get("error")
        if isinstance(error, dict):
            raise from_dict(error)
        started, taken = said.get("started"), said.get("taken")
        self.started = self.started or started is not None
        if isinstance(started, dict) and isinstance(started.get("window"), int):
            self._window = max(started["window"], 1)
        if isinstance(taken, int):
            self._untaken = max(self._untaken - taken, 0)
        for how in ("exit", "signal"):
            if isinstance(said.get(how), int):
                self.ended = Ended("exit" if how == "exit" else "signal", said[how])

    def _open(self) -> None:
        """The handshake; a refusal comes out as the error that the hub answered."""
        until = time.monotonic() + _OPEN_SECONDS
        self._protocol.send_request(self._protocol.connect())
        try:
            self._sock.settimeout(_OPEN_SECONDS)
            self._sock.sendall(b"".join(self._protocol.data_to_send()))
            while not (events := self._protocol.events_received()) and self._protocol.handshake_exc is None:
                self._sock.settimeout(max(until - time.monotonic(), 0.001))
                data = self._sock.recv(65536)
                self._protocol.receive_data(data) if data else self._protocol.receive_eof()
        except TimeoutError:
            raise HubUnreachable(f"the hub opens no terminal within {_OPEN_SECONDS:.0f} s") from None
        except (OSError, WebSocketException, EOFError) as e:
            raise HubUnreachable(f"the hub opens no terminal: {e}") from None
        refusal = self._protocol.handshake_exc
        if isinstance(refusal, InvalidStatus):
            raise _refusal(refusal.response.status_code, refusal.response.body)
        if refusal is not None:
            raise HubUnreachable(f"the hub opens no terminal: {refusal}")
        self._take_all(events[1:])  # what came together with the end of the handshake


def _refusal(status: int, body: bytes | bytearray | None) -> ThopterError:
    try:
        found = msgspec.json.decode(body or b"", type=dict[str, Any]).get("error")
    except (msgspec.MsgspecError, UnicodeDecodeError):
        found = None
    if isinstance(found, dict) and "code" in found:
        return from_dict(found)
    return HubUnreachable(f"the hub refused the terminal (HTTP {status})")
