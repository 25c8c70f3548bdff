"""JSON lines with descriptors over unix sockets, as the zygote and its builders speak."""

from __future__ import annotations

import array
import json
import os
import socket

MAX_LINE = 256 << 10
MAX_FDS = 64


class Line:
    """One connection: bytes and descriptors that came in and are not used yet."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.data = b""
        self.fds: list[int] = []

    def read(self) -> bool:
        """Take in what is there; False when the other side is gone or says too much."""
        try:
            data, ancillary, _, _ = self.sock.recvmsg(65536, socket.CMSG_SPACE(MAX_FDS * 4))
        except (ConnectionError, BlockingIOError) as e:
            return isinstance(e, BlockingIOError)
        for level, kind, raw in ancillary:
            if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                got = array.array("i")
                got.frombytes(raw[: len(raw) - len(raw) % got.itemsize])
                self.fds += got
        self.data += data
        return bool(data) and len(self.data) <= MAX_LINE and len(self.fds) <= MAX_FDS

    def wait(self) -> dict[str, object] | None:
        """Block until one whole line is there; None when the other side is gone."""
        while b"\n" not in self.data:
            if not self.read():
                return None
        return self.take()

    def take(self) -> dict[str, object]:
        """Remove and return the first line. Raises ValueError when it is not a JSON object."""
        raw, _, self.data = self.data.partition(b"\n")
        body = json.loads(raw)
        if not isinstance(body, dict):
            raise ValueError("not a JSON object")
        return body

    def take_fds(self) -> list[int]:
        """Hand over the descriptors that came in."""
        fds, self.fds = self.fds, []
        return fds

    def close(self) -> None:
        """Let go of everything that is still in it."""
        for fd in self.take_fds():
            os.close(fd)
        self.sock.close()


def send(sock: socket.socket, body: dict[str, object], fds: list[int] | None = None) -> None:
    """Send one line with ``fds``. Raises OSError."""
    raw = json.dumps(body).encode() + b"\n"
    rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
    sent = sock.sendmsg([raw], rights)
    if sent < len(raw):
        sock.sendall(raw[sent:])


def failure(e: BaseException) -> dict[str, object]:
    """An exception as the body of an answer."""
    if not isinstance(e, OSError):
        return {"error": f"{type(e).__name__}: {e}", "errno": 0}
    text = e.strerror or str(e)
    return {"error": f"{e.filename}: {text}" if e.filename else text, "errno": e.errno or 0}
