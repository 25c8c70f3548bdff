"""Reads the first words of a TLS client: which name it asks for, and whether that is the whole truth."""

from __future__ import annotations

from msgspec import Struct

_RECORD, _CLIENT_HELLO = 0x16, 1
_SNI, _ECH = 0, 0xFE0D
HELLO_MAX = 32 * 1024


class NotTls(ValueError):
    """These bytes don't begin a TLS conversation that can be judged; the message says why."""


class Hello(Struct, frozen=True):
    """``name``: the server name asked for, None when there is none. ``ech``: a second, encrypted hello
    is inside, whose name nobody but the server can read."""

    name: str | None
    ech: bool


class _Reader:
    """Takes fields off the front of a message; raises NotTls when it is too short."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.at = 0

    def take(self, size: int) -> bytes:
        piece = self.data[self.at : self.at + size]
        if len(piece) != size:
            raise NotTls("a field of the TLS hello is cut short")
        self.at += size
        return piece

    def number(self, size: int) -> int:
        return int.from_bytes(self.take(size), "big")

    def vector(self, size: int) -> _Reader:
        return _Reader(self.take(self.number(size)))

    @property
    def rest(self) -> int:
        return len(self.data) - self.at


def read_hello(buffer: bytes) -> Hello | None:
    """Read a ClientHello at the start of ``buffer``; None when more bytes are needed."""
    message = _message(buffer)
    return None if message is None else _client_hello(_Reader(message))


def _message(buffer: bytes) -> bytes | None:
    """The first handshake message, which may be spread over several records."""
    found = bytearray()
    at = 0
    while True:
        head = buffer[at : at + 5]
        if (head[:1] and head[0] != _RECORD) or (len(head) > 1 and head[1] != 3):
            raise NotTls("this is not TLS")
        if len(head) < 5:
            break
        size = int.from_bytes(head[3:5], "big")
        if not 0 < size <= 16384:
            raise NotTls("a TLS record of a size that is not allowed")
        piece = buffer[at + 5 : at + 5 + size]
        found += piece
        if found and found[0] != _CLIENT_HELLO:
            raise NotTls("the first TLS message is no client hello")
        if len(found) >= 4:
            wanted = 4 + int.from_bytes(found[1:4], "big")
            if wanted > HELLO_MAX:
                raise NotTls("the TLS hello is too long")
            if len(found) >= wanted:
                return bytes(found[4:wanted])
        if len(piece) < size:
            break
        at += 5 + size
    if len(buffer) > 2 * HELLO_MAX:
        raise NotTls("the TLS hello is too long")
    return None


def _client_hello(reader: _Reader) -> Hello:
    reader.take(2 + 32)
    reader.vector(1)  # session
    reader.vector(2)  # cipher suites
    reader.vector(1)  # compression
    if not reader.rest:
        return Hello(name=None, ech=False)
    extensions = reader.vector(2)
    if reader.rest:
        raise NotTls("bytes after the extensions of the TLS hello")
    seen: dict[int, _Reader] = {}
    while extensions.rest:
        kind = extensions.number(2)
        if kind in seen:
            raise NotTls("an extension of the TLS hello comes twice")
        seen[kind] = extensions.vector(2)
    return Hello(name=_server_name(seen[_SNI]) if _SNI in seen else None, ech=_ECH in seen)


def _server_name(reader: _Reader) -> str:
    names = reader.vector(2)
    if names.number(1) != 0:
        raise NotTls("a server name of an unknown kind")
    raw = names.vector(2).data
    if names.rest or reader.rest:
        raise NotTls("more than one server name")
    try:
        return raw.decode("ascii")
    except UnicodeDecodeError:
        raise NotTls("a server name that is not ASCII") from None
