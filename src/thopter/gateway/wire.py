"""The control protocol of a gateway: one JSON line, maybe with one descriptor, and one JSON line back.

One connection carries one request. The socket is a unix stream socket of mode 0600, and the other
side's uid is checked. Lines may hold secrets: nothing here ever puts one into a message or a log.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import struct
from typing import Any

import msgspec

from thopter.model.errors import BadInput, NotAllowed, ThopterError

PROTOCOL = 3
LINE_MAX = 1 << 20
_FDS_MAX = 4


def encode(message: Any) -> bytes:
    """Return ``message`` as one line of JSON."""
    return msgspec.json.encode(message) + b"\n"


def decode(line: bytes) -> dict[str, Any]:
    """Read one JSON object; raises BadInput that never quotes the line."""
    try:
        found = msgspec.json.decode(line)
    except msgspec.DecodeError:
        raise BadInput("the control line is not JSON") from None
    if not isinstance(found, dict):
        raise BadInput("the control line is not a JSON object")
    return found


def peer_uid(sock: socket.socket) -> int:
    """Return the uid of the process at the other end of a unix socket."""
    if hasattr(socket, "SO_PEERCRED"):
        size = struct.calcsize("3i")
        return int(struct.unpack("3i", sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size))[1])
    raise ThopterError("this system can't say who is at the other end of a unix socket")


def check_peer(sock: socket.socket) -> None:
    """Raise NotAllowed unless the other end runs as our own uid (or as root)."""
    uid = peer_uid(sock)
    if uid not in (os.geteuid(), 0):
        raise NotAllowed(f"uid {uid} may not control this gateway")


async def readable(sock: socket.socket) -> None:
    """Wait until ``sock`` has something to read or to accept."""
    loop = asyncio.get_running_loop()
    fd = sock.fileno()
    ready: asyncio.Future[None] = loop.create_future()

    def tell() -> None:
        if not ready.done():
            ready.set_result(None)

    loop.add_reader(fd, tell)
    try:
        await ready
    finally:
        if sock.fileno() == fd:  # else it was closed, and the number may be somebody else's by now
            loop.remove_reader(fd)


async def send_line(sock: socket.socket, line: bytes, fd: int | None = None) -> None:
    """Send ``line`` on a non-blocking unix socket; ``fd`` travels with its first byte."""
    loop = asyncio.get_running_loop()
    if fd is not None:
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, struct.pack("i", fd))]
        sent = sock.sendmsg([line[:1]], rights)  # one byte always fits into a fresh socket's buffer
        line = line[sent:]
    await loop.sock_sendall(sock, line)


async def receive_line(sock: socket.socket, limit: int = LINE_MAX) -> tuple[bytes, list[int]]:
    """Read up to the first newline; returns the line and the descriptors that came with it.

    The caller owns the descriptors. An early end of the stream gives what there was (maybe ``b""``).
    """
    data = bytearray()
    fds: list[int] = []
    try:
        while True:
            await readable(sock)
            try:
                chunk, more, flags, _ = socket.recv_fds(sock, 65536, _FDS_MAX, socket.MSG_CMSG_CLOEXEC)
            except (BlockingIOError, InterruptedError):
                continue
            fds += more
            data += chunk
            if flags & socket.MSG_CTRUNC or len(fds) > _FDS_MAX:
                raise BadInput("too many descriptors in one control request")
            if not chunk or chunk.endswith(b"\n"):
                return bytes(data), fds
            if len(data) > limit:
                raise BadInput("the control line is too long")
    except BaseException:
        close_all(fds)
        raise


def close_all(fds: list[int]) -> None:
    """Close every descriptor of ``fds`` and empty the list."""
    while fds:
        with contextlib.suppress(OSError):
            os.close(fds.pop())
