"""HTTP/1.1 over a unix socket, for callers who must start fast: a third of what http.client costs.

One request at a time on a kept connection. Every wait is bounded, every length is limited, and an
answer that is not HTTP is an error. Why not http.client: docs/decisions/0004-cli-http.md.
"""

from __future__ import annotations

import errno
import os
import socket
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from thopter.model.errors import HubUnreachable

HEAD_MAX = 64 << 10
BODY_MAX = 256 << 20
_LINE_MAX = 4096
_PIECE = 256 << 10
_SAFE = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~")


class Died(Exception):
    """The connection ended before a single byte of the answer came: the request may be sent again."""


class Silent(Exception):
    """Nothing came within the time given: whether the request was carried out is unknown."""


def garbage(why: str) -> HubUnreachable:
    """The error for an answer that breaks HTTP."""
    return HubUnreachable(f"what answers is not a hub: {why}")


def quote(text: str) -> str:
    """Percent-encode one path segment or query value."""
    return "".join(chr(b) if b in _SAFE else f"%{b:02X}" for b in text.encode("utf-8", "surrogateescape"))


def query(**values: object) -> str:
    """Build ``?a=b&c=d`` of the values that are set (not None, not empty, not False)."""
    parts = [
        f"{k}={quote('1' if v is True else str(v))}" for k, v in values.items() if v not in (None, "", False)
    ]
    return "?" + "&".join(parts) if parts else ""


class Body:
    """Takes a body out of its framing, without I/O. ``done`` when it is complete.

    ``rest`` is what came after the end. A body with no length lasts until the connection ends.
    """

    def __init__(self, headers: Mapping[str, str], bodiless: bool = False) -> None:
        self.done = bodiless
        self.rest = b""
        self.framed = True  # its end is known without the end of the connection
        self._left: int | None = None  # bytes of the body or of the present chunk; None: until the end
        self._chunked = False
        self._trailers = False
        self._line = b""
        if bodiless:
            return
        if "chunked" in headers.get("transfer-encoding", "").lower():
            self._chunked, self._left = True, 0
        elif "content-length" in headers:
            length = headers["content-length"]
            if not (length.isascii() and length.isdigit() and len(length) < 16):
                raise garbage(f"content-length {length[:20]!r}")
            self._left = int(length)
            self.done = self._left == 0
        else:
            self.framed = False

    def feed(self, data: bytes) -> bytes:
        """Return the payload in ``data``."""
        out: list[bytes] = []
        while data and not self.done:
            if self._left is None:
                out.append(data)
                return b"".join(out)
            if self._left:
                out.append(data[: self._left])
                data = data[len(out[-1]) :]
                self._left -= len(out[-1])
                self.done = not self._chunked and self._left == 0
            else:
                data = self._chunk_line(data)
        if self.done:
            self.rest += data
        return b"".join(out)

    def end(self) -> None:
        """The connection has ended: fine only when that is how this body ends."""
        if not self.done and self._left is not None:
            raise HubUnreachable("the hub's answer broke off in the middle")
        self.done = True

    def _chunk_line(self, data: bytes) -> bytes:
        cut = data.find(b"\n")
        if cut < 0:
            self._line += data
            if len(self._line) > _LINE_MAX:
                raise garbage("a chunk that does not begin")
            return b""
        line, self._line = (self._line + data[:cut]).strip(), b""
        if self._trailers:
            self.done = not line
        elif line:  # the empty line is the end of the chunk before
            self._left = _hex(line)
            self._trailers = self._left == 0
        return data[cut + 1 :]


class Wire:
    """One connection. ``idle`` is True when it may carry the next request."""

    def __init__(self, path: Path, timeout: float) -> None:
        self.idle = True
        self.rest = b""  # received, not yet used
        self.sock = connect(path, timeout)

    def close(self) -> None:
        """Close the connection; idempotent."""
        self.idle = False
        self.sock.close()

    def receive(self, timeout: float) -> bytes | None:
        """Return some bytes; empty when the connection ended, None when nothing came in time."""
        if self.rest:
            got, self.rest = self.rest, b""
            return got
        try:
            self.sock.settimeout(max(timeout, 0.0005))
            return self.sock.recv(_PIECE)
        except TimeoutError:
            return None
        except OSError:
            return b""

    def request(
        self, method: str, target: str, headers: Mapping[str, str], body: bytes | None, timeout: float
    ) -> Answer:
        """Send a request and read the head of its answer, all within ``timeout`` seconds.

        Raises :class:`Died` or :class:`Silent` when nothing came, HubUnreachable when it is no HTTP.
        """
        until = time.monotonic() + timeout
        self._begin(method, target, headers, body, timeout)
        return self._answer(method, until)

    def upload(
        self, method: str, target: str, headers: Mapping[str, str], pieces: Iterable[bytes], timeout: float
    ) -> Answer:
        """Send a body of any length piece by piece, each and then the answer within ``timeout`` seconds.

        An answer that comes before all is sent ends the sending. Errors as :meth:`request`'s."""
        self._begin(method, target, {**headers, "Transfer-Encoding": "chunked"}, None, timeout)
        try:
            for piece in pieces:
                if piece:
                    self.sock.sendall(b"%x\r\n%b\r\n" % (len(piece), piece))
            self.sock.sendall(b"0\r\n\r\n")
        except TimeoutError:
            raise Silent from None
        except (ConnectionError, BrokenPipeError):
            pass  # it has answered already: listen
        return self._answer(method, time.monotonic() + timeout)

    def _begin(
        self, method: str, target: str, headers: Mapping[str, str], body: bytes | None, timeout: float
    ) -> None:
        self.idle = False
        head = [f"{method} {target} HTTP/1.1", "Host: localhost", *(f"{k}: {v}" for k, v in headers.items())]
        if body is not None:
            head.append(f"Content-Length: {len(body)}")
        try:
            self.sock.settimeout(timeout)
            self.sock.sendall("\r\n".join([*head, "", ""]).encode("ascii") + (body or b""))
        except TimeoutError:
            raise Silent from None
        except OSError:
            pass  # it may have answered and closed before it read all (too large): listen first

    def _answer(self, method: str, until: float) -> Answer:
        status, found = self._head(until)
        while 100 <= status < 200:  # informational answers come before the real one
            status, found = self._head(until)
        bodiless = method == "HEAD" or status in (204, 304)
        return Answer(status, found, self, Body(found, bodiless), until)

    def _head(self, until: float) -> tuple[int, dict[str, str]]:
        data = b""
        while (end := data.find(b"\r\n\r\n")) < 0:
            if len(data) > HEAD_MAX or (data and not data.startswith(b"HTTP/"[: len(data)])):
                raise garbage("its answer does not begin like HTTP")
            got = self.receive(until - time.monotonic())
            if got is None:
                raise Silent
            if not got and not data:
                raise Died
            if not got:
                raise HubUnreachable("the hub's answer broke off in the middle")
            data += got
        self.rest = data[end + 4 :]
        return _parse_head(data[:end])


class Answer:
    """Status and headers (lower-case names) of an answer; the body is read once, by one of the methods."""

    def __init__(self, status: int, headers: dict[str, str], wire: Wire, body: Body, until: float) -> None:
        self.status = status
        self.headers = headers
        self._wire = wire
        self._body = body
        self._until = until

    def piece(self, timeout: float) -> bytes | None:
        """Return the next piece of the body: empty when complete, None when nothing came in time.

        After the end the connection is idle when it may be used again, else closed.
        """
        until = time.monotonic() + timeout
        while not self._body.done:
            got = self._wire.receive(until - time.monotonic())
            if got is None:
                return None
            if not got:
                self._body.end()
            payload = self._body.feed(got)
            if payload:
                return payload
        kept = self._body.framed and self.headers.get("connection", "").lower() != "close"
        if kept and not self._body.rest:
            self._wire.idle = True
        else:
            self._wire.close()
        return b""

    def read(self, limit: int = BODY_MAX) -> bytes:
        """Return the whole body, at most ``limit`` bytes, within the time of the request."""
        got: list[bytes] = []
        size = 0
        while piece := self.piece(self._until - time.monotonic()):
            size += len(piece)
            if size > limit:
                raise garbage(f"a body over {limit} bytes")
            got.append(piece)
        if piece is None:
            raise HubUnreachable("the hub's answer stopped in the middle")
        return b"".join(got)

    def pieces(self, patience: float) -> Iterator[bytes]:
        """Yield the body as it comes; each piece may take ``patience`` seconds."""
        while piece := self.piece(patience):
            yield piece
        if piece is None:
            raise HubUnreachable("the hub's answer stopped in the middle")


def connect(path: Path, timeout: float) -> socket.socket:
    """Connect to a unix socket, or raise HubUnreachable saying what is the matter."""
    until = time.monotonic() + timeout
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.settimeout(timeout)
        while True:
            try:
                sock.connect(os.fspath(path))
                return sock
            except BlockingIOError:  # a unix socket with a full queue says so at once and never waits
                if time.monotonic() > until:
                    raise TimeoutError from None
                time.sleep(0.005)
    except OSError as e:
        sock.close()
        why = {
            errno.ENOENT: "no hub is running",
            errno.ECONNREFUSED: "no hub is running",
            errno.EACCES: "its socket is not yours",
        }.get(e.errno or 0, "the hub takes no connection" if isinstance(e, TimeoutError) else str(e))
        raise HubUnreachable(f"{why} ({path})") from None
    except BaseException:
        sock.close()
        raise


def _parse_head(data: bytes) -> tuple[int, dict[str, str]]:
    first, *lines = data.decode("latin-1").split("\r\n")
    words = first.split(None, 2)
    if len(words) < 2 or not words[0].startswith("HTTP/1.") or not words[1].isdigit() or len(words[1]) != 3:
        raise garbage("its answer does not begin like HTTP")
    headers: dict[str, str] = {}
    for line in lines:
        name, colon, value = line.partition(":")
        if not colon:
            raise garbage("a broken header")
        headers[name.strip().lower()] = value.strip()
    return int(words[1]), headers


def _hex(line: bytes) -> int:
    digits = line.split(b";", 1)[0].strip()
    try:
        if 0 < len(digits) <= 8 and digits.isalnum():
            return int(digits, 16)
    except ValueError:
        pass
    raise garbage("a broken chunk")
