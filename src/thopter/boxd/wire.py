"""boxd's wire format, pure and used by both sides: frames of a byte stream, and credit windows."""

from __future__ import annotations

import json
import struct
from typing import Any, Dict, List, NamedTuple, Union

PROTOCOL = 1
MAX_FRAME = 1 << 20  # bytes after the length word
WINDOW = 256 << 10  # credit that each (channel, stream) starts with, in each direction
CHUNK = 64 << 10  # how much one data frame carries at most when we are the sender
STDIN, STDOUT, STDERR = 0, 1, 2
MESSAGES = STDOUT  # messages of journal, tail and read_files use up this stream's credit
MAX_MESSAGE = MAX_FRAME - 5

_HEAD = struct.Struct(">IBI")
_CREDIT = struct.Struct(">BI")
_KIND_J, _KIND_D, _KIND_W = 0x4A, 0x44, 0x57
_KINDS = frozenset((_KIND_J, _KIND_D, _KIND_W))
_STREAMS = 3


class ProtocolError(Exception):
    """The other side broke the protocol; only this connection is to be closed."""


class Message(NamedTuple):
    """A ``J`` frame: one JSON object. ``size`` is its length on the wire."""

    channel: int
    body: Dict[str, Any]
    size: int


class Data(NamedTuple):
    """A ``D`` frame: raw bytes of one stream of a channel."""

    channel: int
    stream: int
    data: bytes


class Credit(NamedTuple):
    """A ``W`` frame: the other side may send ``amount`` more bytes on that stream."""

    channel: int
    stream: int
    amount: int


Item = Union[Message, Data, Credit]


def to_bytes(text: str) -> bytes:
    """Return the bytes that ``text`` stands for (UTF-8, stray bytes as surrogate escapes).

    Raises ValueError for text that stands for no bytes (other lone surrogates).
    """
    return text.encode("utf-8", "surrogateescape")


def to_text(data: bytes) -> str:
    """Return ``data`` as text from which :func:`to_bytes` makes exactly ``data`` again."""
    return data.decode("utf-8", "surrogateescape")


def _refuse(name: str) -> Any:
    raise ValueError(name + " is not JSON")


_encode = json.JSONEncoder(separators=(",", ":"), allow_nan=False).encode
_decode = json.JSONDecoder(parse_constant=_refuse).decode


def dumps(body: Any) -> bytes:
    """Encode ``body`` as compact ASCII JSON; lone surrogates survive as escapes."""
    return _encode(body).encode("ascii")


def loads(data: bytes) -> Any:
    """Decode JSON from untrusted bytes; raises ValueError for anything that is not JSON."""
    try:
        return _decode(data.decode("utf-8"))
    except RecursionError:
        raise ValueError("nested too deeply") from None


def message(channel: int, body: Dict[str, Any]) -> bytes:
    """Encode a ``J`` frame. Raises ValueError when it would be too large for a frame."""
    payload = dumps(body)
    if len(payload) > MAX_MESSAGE:
        raise ValueError(f"a message of {len(payload)} bytes does not fit into a frame")
    return _HEAD.pack(5 + len(payload), _KIND_J, channel) + payload


def data(channel: int, stream: int, content: bytes) -> bytes:
    """Encode a ``D`` frame; ``content`` is at most MAX_FRAME - 6 bytes."""
    if len(content) > MAX_FRAME - 6:
        raise ValueError(f"{len(content)} bytes do not fit into a frame")
    return b"".join((_HEAD.pack(6 + len(content), _KIND_D, channel), _BYTE[stream], content))


_BYTE = (b"\0", b"\1", b"\2")


def credit(channel: int, stream: int, count: int) -> bytes:
    """Encode a ``W`` frame."""
    return _HEAD.pack(10, _KIND_W, channel) + _CREDIT.pack(stream, count)


class Decoder:
    """Turns a byte stream, cut anywhere, into frames; holds at most one frame.

    After a ProtocolError it is of no further use: every later call raises again.
    """

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._error = ""

    def feed(self, received: bytes) -> List[Item]:
        """Take in bytes and return the frames that are complete now, in order."""
        if self._error:
            raise ProtocolError(self._error)
        buffer = self._buffer
        buffer += received
        items: List[Item] = []
        at, have = 0, len(buffer)
        try:
            while have - at >= 4:
                length = int.from_bytes(buffer[at : at + 4], "big")
                if not 5 <= length <= MAX_FRAME:
                    raise ProtocolError(f"a frame of {length} bytes")
                if have - at == 4:
                    break
                kind = buffer[at + 4]
                if kind not in _KINDS:
                    raise ProtocolError(f"a frame of unknown kind {kind:#04x}")
                end = at + 4 + length
                if end > have:
                    break
                items.append(_parse(kind, buffer, at, end))
                at = end
        except ProtocolError as e:
            self._error = str(e)
            buffer.clear()
            raise
        if at:
            del buffer[:at]
        return items

    @property
    def pending(self) -> int:
        """How many bytes of an unfinished frame are held."""
        return len(self._buffer)


def _parse(kind: int, buffer: bytearray, at: int, end: int) -> Item:
    channel = int.from_bytes(buffer[at + 5 : at + 9], "big")
    at += 9
    if kind == _KIND_D:
        if at == end or buffer[at] >= _STREAMS:
            raise ProtocolError("a data frame without a known stream")
        return Data(channel, buffer[at], bytes(buffer[at + 1 : end]))
    if kind == _KIND_W:
        if end - at != 5 or buffer[at] >= _STREAMS:
            raise ProtocolError("a malformed credit frame")
        return Credit(channel, *_CREDIT.unpack(buffer[at:end]))
    try:
        body = loads(bytes(buffer[at:end]))
    except ValueError as e:
        raise ProtocolError(f"a message that is not JSON: {str(e)[:200]}") from None
    if not isinstance(body, dict):
        raise ProtocolError("a message that is not a JSON object")
    return Message(channel, body, end - at)


class SendWindow:
    """How much may still be sent on one stream; zero or less means stop."""

    __slots__ = ("left",)

    def __init__(self) -> None:
        self.left = WINDOW

    def spend(self, count: int) -> None:
        """Note that ``count`` bytes were sent (a message may overdraw, data never does)."""
        self.left -= count

    def grant(self, count: int) -> None:
        """Take in credit from the other side; an absurd amount is a ProtocolError."""
        self.left += count
        if self.left > 1 << 40:
            raise ProtocolError("credit without end")


class ReceiveWindow:
    """How much the other side may still send on one stream, and when to give it more."""

    __slots__ = ("_done", "_left")

    def __init__(self) -> None:
        self._left = WINDOW
        self._done = 0

    def received(self, count: int) -> None:
        """Note that bytes came; more than the credit given is a ProtocolError."""
        self._left -= count
        if self._left < 0:
            raise ProtocolError("more data than there was credit for")

    def received_message(self, count: int) -> None:
        """Like :meth:`received` for a message: allowed whenever some credit was left."""
        if self._left <= 0:
            raise ProtocolError("more messages than there was credit for")
        self._left -= count

    def consumed(self, count: int) -> int:
        """Note that bytes were used up; return how much credit to give now (0 for not yet)."""
        self._done += count
        if self._done < WINDOW // 2:
            return 0
        done, self._done = self._done, 0
        self._left += done
        return done
