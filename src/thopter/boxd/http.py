"""A strict HTTP/1.1 request parser for the hook listener; pure, bounded, one request at a time."""

from __future__ import annotations

import re
from typing import Callable, Dict, List, NamedTuple, Optional

MAX_HEAD = 16 << 10
MAX_BODY = 16 << 20
_TOKEN = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]{1,64}")
_TARGET = re.compile(rb"/[\x21-\x7e]{0,4096}")
_VALUE = re.compile(rb"[\t\x20-\x7e\x80-\xff]*")
_DIGITS = re.compile(rb"[0-9]{1,12}")
_HEX = re.compile(r"%([0-9A-Fa-f]{2})")


class HttpError(Exception):
    """A request that is refused with ``status``; the connection is closed after the answer."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status
        self.reason = reason


class HttpRequest(NamedTuple):
    """A complete request; header names are lower case."""

    method: str
    path: str
    query: Dict[str, str]
    headers: Dict[str, str]
    body: bytes
    keep_alive: bool


class _Head(NamedTuple):
    method: str
    target: str
    headers: Dict[str, str]
    length: int
    keep_alive: bool


class HttpParser:
    """Takes bytes cut anywhere; :meth:`next` gives complete requests in order."""

    def __init__(self, approve: Callable[[Dict[str, str]], None]) -> None:
        """``approve(headers)`` raises HttpError for a request whose body must not be read."""
        self._approve = approve
        self._buffer = bytearray()
        self._head: Optional[_Head] = None
        self.wants_continue = False  # set once per request that expects "100 Continue"

    @property
    def empty(self) -> bool:
        """True between requests: nothing of the next one has come."""
        return not self._buffer and self._head is None

    def feed(self, received: bytes) -> None:
        """Take bytes in. Raises HttpError when far more comes than one request may hold."""
        self._buffer += received
        if len(self._buffer) > MAX_HEAD + MAX_BODY + (1 << 16):
            raise HttpError(413, "too much at once")

    def next(self) -> Optional[HttpRequest]:
        """Return the next complete request, or None when more bytes are needed."""
        if self._head is None and not self._take_head():
            return None
        head = self._head
        assert head is not None
        if len(self._buffer) < head.length:
            return None
        body = bytes(self._buffer[: head.length])
        del self._buffer[: head.length]
        self._head = None
        self.wants_continue = False
        path, _, query = head.target.partition("?")
        return HttpRequest(head.method, path, parse_query(query), head.headers, body, head.keep_alive)

    def _take_head(self) -> bool:
        while self._buffer[:2] == b"\r\n":  # RFC 9112 2.2: an empty line before a request is allowed
            del self._buffer[:2]
        end = self._buffer.find(b"\r\n\r\n", 0, MAX_HEAD + 4)
        if end < 0:
            if len(self._buffer) > MAX_HEAD:
                raise HttpError(431, "the head of the request is too large")
            return False
        lines = bytes(self._buffer[:end]).split(b"\r\n")
        del self._buffer[: end + 4]
        self._head = _parse_head(lines)
        self._approve(self._head.headers)
        expect = self._head.headers.get("expect", "")
        if expect and expect.lower() != "100-continue":
            raise HttpError(417, "unknown expectation")
        self.wants_continue = bool(expect) and len(self._buffer) < self._head.length
        return True


def _parse_head(lines: List[bytes]) -> _Head:
    parts = lines[0].split(b" ")
    if len(parts) != 3 or not _TOKEN.fullmatch(parts[0]) or not _TARGET.fullmatch(parts[1]):
        raise HttpError(400, "malformed request line")
    if parts[2] not in (b"HTTP/1.1", b"HTTP/1.0"):
        raise HttpError(505, "only HTTP/1.1 is spoken here")
    headers: Dict[str, str] = {}
    for line in lines[1:]:
        name, colon, value = line.partition(b":")
        if not colon or not _TOKEN.fullmatch(name) or not _VALUE.fullmatch(value):
            raise HttpError(400, "malformed header")
        key = name.decode("ascii").lower()
        if key in headers:
            if key in ("content-length", "host", "authorization", "transfer-encoding", "origin"):
                raise HttpError(400, f"more than one {key}")
            continue
        headers[key] = value.decode("latin-1").strip(" \t")
    if "transfer-encoding" in headers:
        raise HttpError(411, "say the length of the body (content-length)")
    raw = headers.get("content-length", "0").encode("latin-1")
    if not _DIGITS.fullmatch(raw):
        raise HttpError(400, "malformed content-length")
    length = int(raw)
    if length > MAX_BODY:
        raise HttpError(413, f"a body of more than {MAX_BODY} bytes")
    connection = headers.get("connection", "").lower()
    keep = "close" not in connection if parts[2] == b"HTTP/1.1" else "keep-alive" in connection
    return _Head(parts[0].decode("ascii"), parts[1].decode("ascii"), headers, length, keep)


def parse_query(text: str) -> Dict[str, str]:
    """Parse ``a=b&c=d`` (percent-decoded as UTF-8); a name given twice or malformed is an error."""
    found: Dict[str, str] = {}
    for part in text.split("&") if text else ():
        name, _, value = part.partition("=")
        name, value = _unquote(name), _unquote(value)
        if not name or name in found:
            raise HttpError(400, "malformed query")
        found[name] = value
    return found


def _unquote(text: str) -> str:
    raw = _HEX.sub(lambda m: chr(int(m.group(1), 16)), text.replace("+", " "))
    try:
        return raw.encode("latin-1").decode("utf-8")
    except UnicodeError:
        raise HttpError(400, "malformed query") from None


_REASONS = {
    100: "Continue", 200: "OK", 204: "No Content", 400: "Bad Request", 401: "Unauthorized",
    403: "Forbidden", 404: "Not Found", 405: "Method Not Allowed", 411: "Length Required",
    413: "Content Too Large", 417: "Expectation Failed", 429: "Too Many Requests",
    431: "Request Header Fields Too Large", 503: "Service Unavailable", 505: "HTTP Version Not Supported",
}  # fmt: skip


def response(status: int, body: bytes = b"", close: bool = False, kind: str = "application/json") -> bytes:
    """Encode an answer in one piece (two sends cost 40 ms of delayed acknowledgement)."""
    head = f"HTTP/1.1 {status} {_REASONS.get(status, 'Status')}\r\n"
    if status >= 200 and status != 204:
        head += f"Content-Type: {kind}\r\nContent-Length: {len(body)}\r\n"
    if close:
        head += "Connection: close\r\n"
    return head.encode("ascii") + b"\r\n" + (body if status != 204 else b"")
