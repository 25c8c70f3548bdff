"""Commands over the hub's WebSocket, for tests: a plain client and raw frames."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from hub_support import BOUND, HubProcess, Raw
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, unix_connect


@contextmanager
def connection(hub: HubProcess, box: str, **kw: Any) -> Iterator[ClientConnection]:
    uri = f"ws://thopter/v1/thopters/{box}/exec"
    with unix_connect(str(hub.socket), uri, compression=None, ping_interval=None, max_size=None, **kw) as ws:
        yield ws


@contextmanager
def command(hub: HubProcess, box: str, *argv: str, **request: Any) -> Iterator[ClientConnection]:
    """A started command."""
    with connection(hub, box) as ws:
        ws.send(json.dumps({"argv": argv, **request}))
        assert json.loads(ws.recv(BOUND)) == {"started": {"window": WINDOW}}
        yield ws


WINDOW = 1 << 20


def finish(ws: ClientConnection) -> tuple[bytes, bytes, dict[str, Any]]:
    """Everything until the end: output, errors, the last message; the hub closes then."""
    out: dict[int, list[bytes]] = {1: [], 2: []}
    taken = 0
    while True:
        message = ws.recv(BOUND)
        if isinstance(message, str) and message.startswith('{"taken":'):
            taken += json.loads(message)["taken"]
        elif isinstance(message, str):
            with pytest.raises(ConnectionClosed):
                ws.recv(BOUND)
            return b"".join(out[1]), b"".join(out[2]), json.loads(message)
        else:
            out[message[0]].append(message[1:])


def close_code(ws: ClientConnection) -> int:
    with pytest.raises(ConnectionClosed) as closed:
        while True:
            ws.recv(BOUND)
    assert closed.value.rcvd is not None
    return closed.value.rcvd.code


def python(code: str) -> tuple[str, ...]:
    return ("/usr/bin/env", "python3", "-c", code)


def alive(mark: str) -> list[int]:
    """Processes that have ``mark`` in their arguments."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                arguments = (entry / "cmdline").read_bytes()
            except OSError:
                continue
            if mark.encode() in arguments:
                found.append(int(entry.name))
    return found


def frames(data: bytes) -> Iterator[tuple[int, bytes]]:
    """The frames of a server."""
    at = 0
    while at < len(data):
        opcode, length, at = data[at] & 15, data[at + 1], at + 2
        if length > 125:
            wide = 2 if length == 126 else 8
            length, at = int.from_bytes(data[at : at + wide], "big"), at + wide
        yield opcode, data[at : at + length]
        at += length


@contextmanager
def shaken(hub: HubProcess, box: str) -> Iterator[Raw]:
    """A raw connection after the handshake."""
    with Raw(hub.socket) as raw:
        raw.send(
            f"GET /v1/thopters/{box}/exec HTTP/1.1\r\nHost: thopter\r\nConnection: upgrade\r\n"
            "Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
            "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n".encode()
        )
        head = raw.head()
        assert b" 101 " in head and b"content-security-policy" in head.lower()
        yield raw


def frame(opcode: int, payload: bytes, fin: bool = True) -> bytes:
    """A masked client frame (mask 0)."""
    head = bytes([(0x80 if fin else 0) | opcode])
    if len(payload) < 126:
        head += bytes([0x80 | len(payload)])
    elif len(payload) < 65536:
        head += bytes([0x80 | 126]) + struct.pack(">H", len(payload))
    else:
        head += bytes([0x80 | 127]) + struct.pack(">Q", len(payload))
    return head + b"\0\0\0\0" + payload
