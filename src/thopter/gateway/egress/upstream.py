"""Speaks HTTP/1.1 with the far side: one connection, used again for the same place, answers read strictly."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator

from msgspec import Struct

from thopter.gateway.connection import ClientGone, Wire
from thopter.gateway.http1 import Head, Headers, safe_value
from thopter.gateway.policy.model import HEADERS_BESIDE_A_CREDENTIAL, HEADERS_OF_CLIENTS

_HEAD_MAX = 64 * 1024
_STATUS = re.compile(r"HTTP/1\.([01]) ([1-9][0-9][0-9])(?: .*)?")
_FIELD = re.compile(r"([!#$%&'*+.^_`|~0-9A-Za-z-]{1,128}):[ \t]*(.*?)[ \t]*", re.DOTALL)
_SIZE = re.compile(rb"[0-9a-fA-F]{1,15}")
_HOP = frozenset(
    {"connection", "keep-alive", "proxy-connection", "proxy-authenticate", "proxy-authorization", "te",
     "trailer", "transfer-encoding", "upgrade", "expect", "content-length", "host", "alt-svc"}
)  # fmt: skip


class BadAnswer(Exception):
    """The far side does not answer in HTTP/1.1; the message says what is wrong."""


class Answer(Struct, frozen=True, kw_only=True):
    """The head of an answer. ``length``: bytes of the body, -1 when it is chunked, -2 when it ends with
    the connection."""

    status: int
    headers: Headers
    length: int
    keep_alive: bool

    @property
    def coded(self) -> bool:
        """Whether its body is compressed or encoded otherwise."""
        return any(n == "content-encoding" and v.lower() not in ("", "identity") for n, v in self.headers)


class Far(Struct, frozen=True):
    """A place: scheme, host and port; connections are shared by nothing else."""

    scheme: str
    host: str
    port: int

    @property
    def authority(self) -> str:
        """What stands in the Host header."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == {"http": 80, "https": 443}[self.scheme] else f"{host}:{self.port}"


class Upstream:
    """One connection to a place. Not for two requests at once."""

    def __init__(self, far: Far, wire: Wire, address: str, idle: float) -> None:
        self.far = far
        self.wire = wire
        self.address = address
        self.reusable = True
        self.used = False
        self._idle = idle

    @property
    def fit(self) -> bool:
        """Whether another request can be tried on it."""
        return self.reusable and not self.wire.gone and not self.wire.buffer

    def close(self) -> None:
        """Break it off."""
        self.reusable = False
        self.wire.abort()

    async def answer(self, method: str) -> Answer:
        """Read the next answer's head (interim ones are left out); raises BadAnswer, TimeoutError."""
        while True:
            raw = await self._head()
            found = parse_answer(raw, method)
            if found.status >= 200 or found.status == 101:
                self.reusable = self.reusable and found.keep_alive and found.length != -2
                return found

    async def _head(self) -> bytes:
        buffer = self.wire.buffer
        while True:
            end = buffer.find(b"\r\n\r\n", 0, _HEAD_MAX)
            if end >= 0:
                raw = bytes(buffer[: end + 4])
                del buffer[: end + 4]
                return raw
            if len(buffer) >= _HEAD_MAX:
                raise BadAnswer(f"its head is over {_HEAD_MAX} bytes")
            try:
                await self.wire.more(self._idle)
            except ClientGone:
                raise BadAnswer("it closed the connection" if not buffer else "its head breaks off") from None

    async def body(self, answer: Answer) -> AsyncIterator[bytes]:
        """Yield the body as it comes; raises BadAnswer when it breaks off."""
        if answer.length == -1:
            async for piece in self._chunks():
                yield piece
            return
        left = answer.length
        while left:
            if not self.wire.buffer:
                try:
                    await self.wire.more(self._idle)
                except ClientGone:
                    if left == -2:
                        return
                    raise BadAnswer("its body breaks off") from None
            piece = self._take(left if left > 0 else 1 << 30)
            left = left - len(piece) if left > 0 else left
            yield piece

    def _take(self, most: int) -> bytes:
        piece = bytes(self.wire.buffer[:most])
        del self.wire.buffer[: len(piece)]
        return piece

    async def _chunks(self) -> AsyncIterator[bytes]:
        while True:
            line = (await self._line()).partition(b";")[0].strip()
            if not _SIZE.fullmatch(line):
                raise BadAnswer("a chunk size is malformed")
            left = int(line, 16)
            if not left:
                break
            while left:
                await self._some()
                piece = self._take(left)
                left -= len(piece)
                yield piece
            if await self._line():
                raise BadAnswer("a chunk is over its size")
        while await self._line():  # trailers: read, not passed on
            continue

    async def _line(self) -> bytes:
        buffer = self.wire.buffer
        while True:
            end = buffer.find(b"\r\n", 0, 8192)
            if end >= 0:
                line = bytes(buffer[:end])
                del buffer[: end + 2]
                return line
            if len(buffer) >= 8192:
                raise BadAnswer("a line of its chunked body is too long")
            await self._some(len(buffer))

    async def _some(self, more_than: int = 0) -> None:
        while len(self.wire.buffer) <= more_than:
            try:
                await self.wire.more(self._idle)
            except ClientGone:
                raise BadAnswer("its body breaks off") from None


def parse_answer(raw: bytes, method: str) -> Answer:
    """Parse a complete answer head; raises BadAnswer for what could be read in two ways."""
    lines = raw[:-4].decode("latin-1").split("\r\n")
    status = _STATUS.fullmatch(lines[0])
    if not status:
        raise BadAnswer("its status line is not HTTP/1.1")
    headers = []
    for line in lines[1:]:
        field = _FIELD.fullmatch(line)
        if not field:
            raise BadAnswer("a header line of it is folded or malformed")
        if any(ord(c) < 32 and c != "\t" for c in field[2]):
            raise BadAnswer("a control character in a header of it")
        headers.append((field[1].lower(), field[2].encode("latin-1").decode("ascii", "replace")))
    code = int(status[2])
    tokens = {t.strip().lower() for n, v in headers if n == "connection" for t in v.split(",")}
    keep = status[1] == "1" and "close" not in tokens
    return Answer(
        status=code,
        headers=tuple((n, v.replace("�", "?")) for n, v in headers),
        length=_length(headers, code, method),
        keep_alive=keep,
    )


def _length(headers: list[tuple[str, str]], status: int, method: str) -> int:
    codings = [v.lower() for n, v in headers if n == "transfer-encoding"]
    lengths = {v for n, v in headers if n == "content-length"}
    if codings and (lengths or codings != ["chunked"]):
        raise BadAnswer("the length of its body is told in two ways or not at all")
    if len(lengths) > 1 or not all(v.isascii() and v.isdigit() and len(v) < 16 for v in lengths):
        raise BadAnswer("the length of its body is not one number")
    if method == "HEAD" or status < 200 or status in (204, 304):
        return 0
    if codings:
        return -1
    return int(lengths.pop()) if lengths else -2


def request_head(
    head: Head, target: str, far: Far, strip: bool, added: tuple[str, str] | None, upgrade: bool
) -> bytes:
    """Build the request anew for the far side. ``strip``: the client's own credentials stay behind;
    ``added``: one header of ours, which replaces any of that name."""
    named = {t.strip().lower() for n, v in head.headers if n == "connection" for t in v.split(",")}
    drop = _HOP | named | (set(HEADERS_OF_CLIENTS) if strip else set())
    drop |= set(HEADERS_BESIDE_A_CREDENTIAL) if added else set()
    fields = [(n, v) for n, v in head.headers if n not in drop and not (added and n == added[0])]
    if added is not None:
        fields += [added, ("accept-encoding", "identity")]
    if upgrade:
        fields += [("upgrade", "websocket"), ("connection", "Upgrade")]
    if head.length is None:
        fields.append(("transfer-encoding", "chunked"))
    elif head.length or head.method in ("POST", "PUT", "PATCH"):
        fields.append(("content-length", str(head.length)))
    lines = [f"{head.method} {target} HTTP/1.1", f"host: {far.authority}"]
    lines += [f"{n}: {v}" for n, v in fields if safe_value(v)]
    return ("\r\n".join(lines) + "\r\n\r\n").encode("ascii")


def answer_headers(answer: Answer) -> list[tuple[str, str]]:
    """The headers of an answer that the client may see."""
    named = {t.strip().lower() for n, v in answer.headers if n == "connection" for t in v.split(",")}
    drop = _HOP | named
    return [(n, v) for n, v in answer.headers if n not in drop and safe_value(v)]
