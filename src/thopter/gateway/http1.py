"""A strict reading of HTTP/1.1 requests: pure functions and small machines, no I/O.

What is ambiguous is refused, never guessed: a bare LF, a folded header, a space before a colon, both
Content-Length and Transfer-Encoding, a chunk extension, an absolute or authority target. Requests are
afterwards built anew for whoever is behind the gateway, so a client's bytes are never passed on as a head.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from http import HTTPStatus

from msgspec import Struct

HEAD_MAX = 32 * 1024
TARGET_MAX = 4096
HEADERS_MAX = 100

Headers = tuple[tuple[str, str], ...]

_BAD_BYTE = re.compile(rb"(?<!\r)\n|\r(?!\n|\Z)|[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\xff]")
_REQUEST_LINE = re.compile(rf"([A-Z]{{1,16}}) ([!-~]{{1,{TARGET_MAX}}}) HTTP/1\.([01])")
_FIELD = re.compile(r"([!#$%&'*+.^_`|~0-9A-Za-z-]{1,128}):[ \t]*(.*?)[ \t]*", re.DOTALL)
_LENGTH = re.compile(r"[0-9]{1,15}")
_CHUNK_SIZE = re.compile(rb"[0-9a-fA-F]{1,8}")


class BadRequest(Exception):
    """The client's bytes can't be served; ``status`` is the HTTP status that says so."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.message = message


class Head(Struct, frozen=True, kw_only=True):
    """A request head. Header names are lower case; ``length`` is None when the body is chunked."""

    method: str
    target: str
    version: str
    headers: Headers
    length: int | None
    expects_continue: bool
    keep_alive: bool

    def header(self, name: str) -> str | None:
        """The value of header ``name``, several joined by ", ", or None."""
        found = [v for n, v in self.headers if n == name]
        return ", ".join(found) if found else None

    @property
    def has_body(self) -> bool:
        """Whether bytes of a body follow."""
        return self.length is None or self.length > 0


class HeadFinder:
    """Finds the end of a head in a growing buffer; looks at every byte once, however it drips in."""

    def __init__(self) -> None:
        self._seen = 0

    def find(self, buffer: bytearray) -> int:
        """Return the length of the complete head at the start of ``buffer`` (its empty line included),
        or 0 when more is needed. Raises BadRequest as soon as it can't become one."""
        start = max(self._seen - 3, 0)
        end = buffer.find(b"\r\n\r\n", start, HEAD_MAX)
        stop = end + 4 if end >= 0 else min(len(buffer), HEAD_MAX)
        if _BAD_BYTE.search(bytes(buffer[start:stop]), 1 if start else 0):
            raise BadRequest(
                400, "a control character, a bare line feed or a non-ASCII byte in the request head"
            )
        self._seen = stop
        if end >= 0:
            return stop
        if len(buffer) >= HEAD_MAX:
            raise BadRequest(431, f"the request head is over {HEAD_MAX} bytes")
        return 0


def parse_head(raw: bytes, proxy: bool = False) -> Head:
    """Parse a complete head as found by :class:`HeadFinder`; raises BadRequest. ``proxy``: targets may have
    the forms that proxies are asked with (an authority, an absolute address), unread."""
    lines = raw[:-4].decode("ascii").split("\r\n")
    line = _REQUEST_LINE.fullmatch(lines[0])
    if not line:
        raise BadRequest(400, "the request line is not METHOD SP TARGET SP HTTP/1.1")
    method, target, minor = line[1], line[2], line[3]
    if not proxy and not target.startswith("/"):
        raise BadRequest(400, "only targets that start with '/' are served here; this is not a proxy")
    if len(lines) - 1 > HEADERS_MAX:
        raise BadRequest(431, f"more than {HEADERS_MAX} headers")
    headers = tuple(_field(text) for text in lines[1:])
    length = _framing(headers, minor)
    hosts = [v for n, v in headers if n == "host"]
    if len(hosts) > 1 or (not hosts and minor == "1"):
        raise BadRequest(400, "exactly one Host header is needed")
    connection = _tokens(headers, "connection")
    return Head(
        method=method,
        target=target,
        version="1." + minor,
        headers=headers,
        length=length,
        expects_continue=_expectation(headers),
        keep_alive=minor == "1" and "close" not in connection,
    )


def _field(text: str) -> tuple[str, str]:
    found = _FIELD.fullmatch(text)
    if not found:
        raise BadRequest(400, "a header line is folded or malformed")
    return found[1].lower(), found[2]


def _tokens(headers: Headers, name: str) -> list[str]:
    return [t.strip().lower() for n, v in headers if n == name for t in v.split(",")]


def _expectation(headers: Headers) -> bool:
    wanted = [v.lower() for n, v in headers if n == "expect"]
    if not wanted:
        return False
    if wanted != ["100-continue"]:
        raise BadRequest(417, "that expectation can't be met")
    return True


def _framing(headers: Headers, minor: str) -> int | None:
    lengths = [v for n, v in headers if n == "content-length"]
    codings = [v for n, v in headers if n == "transfer-encoding"]
    if codings and (lengths or minor == "0"):
        raise BadRequest(400, "Transfer-Encoding together with Content-Length, or in HTTP/1.0")
    if codings:
        if [c.lower() for c in codings] != ["chunked"]:
            raise BadRequest(501, "the only transfer coding served here is 'chunked'")
        return None
    if not lengths:
        return 0
    if len(lengths) > 1 or not _LENGTH.fullmatch(lengths[0]):
        raise BadRequest(400, "Content-Length must be one plain number")
    return int(lengths[0])


class BodyDecoder:
    """Takes the bytes after a head and gives the body's bytes; ``done`` when the body is complete.

    Bytes after the end of the body stay in the buffer (they are the next request's).
    """

    def __init__(self, head: Head) -> None:
        self._left = head.length
        self._chunked = head.length is None
        self._state = "size"
        self.done = head.length == 0

    def feed(self, buffer: bytearray) -> bytes:
        """Take what can be used from the front of ``buffer``; raises BadRequest for bad chunks."""
        if self.done:
            return b""
        if not self._chunked:
            assert self._left is not None
            piece = bytes(buffer[: self._left])
            del buffer[: len(piece)]
            self._left -= len(piece)
            self.done = self._left == 0
            return piece
        pieces: list[bytes] = []
        while self._step(buffer, pieces):
            pass
        return b"".join(pieces)

    def _step(self, buffer: bytearray, pieces: list[bytes]) -> bool:
        if self._state == "size":
            return self._size_line(buffer)
        if self._state == "data":
            assert self._left is not None
            piece = bytes(buffer[: self._left])
            del buffer[: len(piece)]
            self._left -= len(piece)
            pieces.append(piece)
            if self._left == 0:
                self._state = "data-end"
            return bool(piece)
        if len(buffer) < 2:
            if buffer and buffer[0] != 0x0D:
                raise BadRequest(400, "a chunk doesn't end with CR LF")
            return False
        if buffer[:2] != b"\r\n":
            what = "trailers are not served here" if self._state == "last" else "a chunk is over its size"
            raise BadRequest(400, what)
        del buffer[:2]
        if self._state == "last":
            self.done = True
            return False
        self._state = "size"
        return True

    def _size_line(self, buffer: bytearray) -> bool:
        end = buffer.find(b"\r\n", 0, 10)
        if end < 0:
            if len(buffer) >= 10 or (buffer and not _CHUNK_SIZE.fullmatch(bytes(buffer).rstrip(b"\r"))):
                raise BadRequest(400, "a chunk size is malformed")
            return False
        text = bytes(buffer[:end])
        if not _CHUNK_SIZE.fullmatch(text):
            raise BadRequest(400, "a chunk size is malformed")
        del buffer[: end + 2]
        self._left = int(text, 16)
        self._state = "data" if self._left else "last"
        return True


def response_head(status: int, headers: Iterable[tuple[str, str]]) -> bytes:
    """Build a response head. Header values come from our own code or were checked by the caller with
    :func:`safe_value`; a line break in one raises ValueError rather than splitting the response."""
    try:
        phrase = HTTPStatus(status).phrase
    except ValueError:
        phrase = "Unknown"
    lines = [f"HTTP/1.1 {status} {phrase}"]
    for name, value in headers:
        if not safe_value(value) or not safe_value(name):
            raise ValueError(f"unsafe response header {name!r}")
        lines.append(f"{name}: {value}")
    return ("\r\n".join(lines) + "\r\n\r\n").encode("ascii")


def safe_value(value: str) -> bool:
    """Whether ``value`` is printable ASCII (tabs allowed) and can stand in a header."""
    return value.isascii() and (value.isprintable() or value.replace("\t", "").isprintable())
