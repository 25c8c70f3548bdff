"""A command in a box over the hub's WebSocket: input, output, size, signals, and how it ended."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import msgspec
from msgspec import Struct
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidMessage, InvalidStatus
from websockets.sync.client import ClientConnection, connect

from thopter.mesh.http import connect as open_socket
from thopter.model.api import ExecRequest
from thopter.model.errors import BadInput, HubUnreachable, ThopterError, from_dict

PIECE = 256 << 10  # of input in one message; the hub takes 1 MiB
_MESSAGE_MAX = 2 << 20
_OPEN_SECONDS = 30.0


class Ended(Struct, frozen=True):
    """How a command ended: ``exit`` with its code or ``signal`` with the signal's number."""

    how: Literal["exit", "signal"]
    code: int

    @property
    def status(self) -> int:
        """The exit status a shell would give: the code, or 128 + signal."""
        return self.code if self.how == "exit" else 128 + self.code


class Exec:
    """One running command. One thread may send while another iterates.

    Iterating yields ``(stream, data)`` (1 output, 2 errors) until the command has ended; then
    :attr:`ended` says how. Not iterating holds the command back, not the hub. Errors: what the hub
    says (NotFound, NotNow, …), or HubUnreachable when the connection breaks; the command ends then.
    """

    def __init__(self, path: Path, target: str, request: ExecRequest) -> None:
        self.ended: Ended | None = None
        try:
            first = msgspec.json.encode(request).decode()
        except (UnicodeEncodeError, ValueError):
            raise BadInput("the command is not UTF-8 text") from None
        if any("\0" in arg for arg in request.argv):
            raise BadInput("an argument of the command holds a NUL byte")
        self._stack = contextlib.ExitStack()
        self._sock = open_socket(path, 10.0)
        self._ws = self._stack.enter_context(_open(self._sock, target))
        self._send(first)

    def __enter__(self) -> Exec:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go; a command that has not ended is ended by the hub."""
        self._stack.close()

    def abort(self) -> None:
        """Cut the connection, from any thread: a :meth:`write` that waits returns."""
        with contextlib.suppress(OSError):
            self._sock.shutdown(socket.SHUT_RDWR)

    def __iter__(self) -> Iterator[tuple[int, bytes]]:
        while self.ended is None:
            try:
                message = self._ws.recv()
            except ConnectionClosed:
                raise HubUnreachable("the connection to the hub broke off; the command was ended") from None
            if isinstance(message, str):
                self._hear(message)
            elif message[:1] in (b"\1", b"\2"):
                yield message[0], message[1:]

    def write(self, data: bytes) -> None:
        """Give it input; waits while it takes none. What comes after its end is dropped."""
        for at in range(0, len(data), PIECE):
            self._send(b"\0" + data[at : at + PIECE])

    def eof(self) -> None:
        """End its input."""
        self._send('{"eof":0}')

    def resize(self, rows: int, cols: int) -> None:
        """Tell it the terminal's size."""
        self._send(f'{{"resize":[{max(rows, 1)},{max(cols, 1)}]}}')

    def signal(self, name: str) -> None:
        """Send it a signal by name, without ``SIG``."""
        self._send(msgspec.json.encode({"signal": name}).decode())

    def _send(self, message: str | bytes) -> None:
        try:
            self._ws.send(message)
        except ConnectionClosed:
            return  # the reader finds out why: an end, an error, or a broken connection

    def _hear(self, text: str) -> None:
        try:
            said = msgspec.json.decode(text, type=dict[str, Any])
        except msgspec.MsgspecError:
            raise HubUnreachable("what answers is not a hub: a message that is no JSON") from None
        error = said.get("error")
        if isinstance(error, dict):
            raise from_dict(error)
        for how in ("exit", "signal"):
            if isinstance(said.get(how), int):
                self.ended = Ended("exit" if how == "exit" else "signal", said[how])


def _open(sock: socket.socket, target: str) -> ClientConnection:
    sock.settimeout(None)
    try:
        return connect(
            "ws://localhost" + target,
            sock=sock,
            compression=None,
            max_size=_MESSAGE_MAX,
            open_timeout=_OPEN_SECONDS,
            close_timeout=2.0,
            # A box that takes no input for a while holds everything back, pings too: it is not dead.
            ping_interval=None,
            proxy=None,
        )
    except InvalidStatus as e:
        sock.close()
        raise _refusal(e.response.status_code, e.response.body) from None
    except (InvalidHandshake, InvalidMessage, OSError, EOFError, TimeoutError) as e:
        sock.close()
        raise HubUnreachable(f"the hub opens no terminal: {e}") from None


def _refusal(status: int, body: bytes | bytearray | None) -> ThopterError:
    try:
        found = msgspec.json.decode(body or b"", type=dict[str, Any]).get("error")
    except (msgspec.MsgspecError, UnicodeDecodeError):
        found = None
    if isinstance(found, dict) and "code" in found:
        return from_dict(found)
    return HubUnreachable(f"the hub refused the terminal (HTTP {status})")
