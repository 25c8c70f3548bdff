"""The outside of an exported snapshot: a stream of checksummed blocks.

After the first line come blocks: length (4 bytes), SHA-256 of (the digest before it + the payload),
payload (zlib). A block of length 0 ends the file; its digest covers the word ``end``. As each digest
stands on all before it, a changed, missing, moved or cut-off block is found.
"""

from __future__ import annotations

import hashlib
import struct
import threading
import zlib
from collections import deque
from collections.abc import Iterable, Iterator

from thopter.model.errors import BadInput

FIRST_LINE = b"thopter snapshot 1\n"
_FAMILY = b"thopter snapshot "
_BLOCK = 256 << 10
_BIGGEST = 4 << 20
_END = b"end"


def blocks(content: Iterable[bytes]) -> Iterator[bytes]:
    """The file whose inside is ``content``."""
    yield FIRST_LINE
    packer = zlib.compressobj(1)
    digest, waiting = b"", bytearray()
    for piece in content:
        waiting += packer.compress(piece)
        while len(waiting) >= _BLOCK:
            digest, block = _block(digest, bytes(waiting[:_BLOCK]))
            del waiting[:_BLOCK]
            yield block
    waiting += packer.flush()
    digest, block = _block(digest, bytes(waiting))
    yield block
    yield struct.pack(">I", 0) + hashlib.sha256(digest + _END).digest()


def _block(before: bytes, payload: bytes) -> tuple[bytes, bytes]:
    digest = hashlib.sha256(before + payload).digest()
    return digest, struct.pack(">I", len(payload)) + digest + payload


class Pipe:
    """Bytes from one thread to another, bounded; either side may give up."""

    def __init__(self, most: int = 4 << 20) -> None:
        self._most = most
        self._pieces: deque[bytes] = deque()
        self._size = 0
        self._ended = self._closed = False
        self._changed = threading.Condition()

    def put(self, piece: bytes) -> bool:
        """Hand over a piece; waits for room. False: nobody reads any more."""
        with self._changed:
            self._changed.wait_for(lambda: self._closed or self._size < self._most)
            if self._closed:
                return False
            self._pieces.append(piece)
            self._size += len(piece)
            self._changed.notify_all()
            return True

    def end(self) -> None:
        """No more comes."""
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    def shut(self) -> None:
        """Nobody reads any more."""
        with self._changed:
            self._closed = True
            self._pieces.clear()
            self._changed.notify_all()

    def get(self) -> bytes:
        """The next piece; empty at the end."""
        with self._changed:
            self._changed.wait_for(lambda: self._pieces or self._ended)
            if not self._pieces:
                return b""
            piece = self._pieces.popleft()
            self._size -= len(piece)
            self._changed.notify_all()
            return piece


class Reader:
    """The inside of such a file, checked block by block. Every fault is BadInput."""

    def __init__(self, pipe: Pipe) -> None:
        self._pipe = pipe
        self._raw = bytearray()
        self._digest = b""
        self._unpacker = zlib.decompressobj()
        self._packed = b""
        self._ready = bytearray()
        self._begun = False

    def read(self, count: int) -> bytes:
        """Exactly ``count`` bytes."""
        while len(self._ready) < count:
            if not self._more():
                raise _cut_short()
        piece = bytes(self._ready[:count])
        del self._ready[:count]
        return piece

    def finish(self) -> None:
        """The end must be here, checked, with nothing after it."""
        if self._ready or self._more():
            raise BadInput("the file goes on after its end: it is no thopter snapshot")
        self._raw += self._pipe.get()
        if self._raw:
            raise BadInput("something follows the end of the snapshot")

    def _more(self) -> bool:
        """Unpack some more; False at the end of the file."""
        if not self._packed:
            self._packed = self._next_block()
            if not self._packed:
                return False
        try:
            self._ready += self._unpacker.decompress(self._packed, 1 << 20)
        except zlib.error:
            raise BadInput("the snapshot can't be unpacked") from None
        self._packed = self._unpacker.unconsumed_tail
        return True

    def _next_block(self) -> bytes:
        if not self._begun:
            line = self._exactly(len(FIRST_LINE))
            if line != FIRST_LINE:
                newer = line.startswith(_FAMILY)
                raise BadInput(
                    "the snapshot was written by another version" if newer else "this is no thopter snapshot"
                )
            self._begun = True
        (length,) = struct.unpack(">I", self._exactly(4))
        digest = self._exactly(32)
        if length > _BIGGEST:
            raise BadInput("a block of the snapshot is too long")
        payload = self._exactly(length) if length else b""
        if hashlib.sha256(self._digest + (payload or _END)).digest() != digest:
            raise BadInput("the snapshot was changed: a checksum does not fit")
        self._digest = digest
        return payload

    def _exactly(self, count: int) -> bytes:
        while len(self._raw) < count:
            piece = self._pipe.get()
            if not piece:
                raise _cut_short()
            self._raw += piece
        found = bytes(self._raw[:count])
        del self._raw[:count]
        return found


def _cut_short() -> BadInput:
    return BadInput("the snapshot is cut short", hint="copy or export it again")
