"""Takes gzip off a request body as it streams, with a bound on what comes out."""

from __future__ import annotations

import zlib
from collections.abc import AsyncIterator, Iterator
from typing import Any

from thopter.gateway.http1 import BadRequest

_STEP = 256 * 1024
#: Real requests (lists of commit ids) shrink less than 100-fold; a bomb shrinks a thousandfold.
_RATIO_MAX = 200
_RATIO_FREE = 1 << 20


async def plain_body(body: AsyncIterator[bytes], gzipped: bool, limit: int) -> AsyncIterator[bytes]:
    """Yield the plain bytes of ``body``; raises BadRequest 413 (too much) or 400 (not gzip)."""
    taken = given = 0
    unpack = zlib.decompressobj(wbits=31) if gzipped else None
    async for piece in body:
        taken += len(piece)
        for plain in _steps(unpack, piece):
            given += len(plain)
            if given > limit or (given > _RATIO_FREE and given > taken * _RATIO_MAX):
                raise BadRequest(413, "the unpacked body is too big")
            yield plain
    if unpack is not None and not unpack.eof:
        raise BadRequest(400, "the gzip body is cut short")


async def begun(body: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """Wait for the first piece of ``body``, and return the whole of it."""
    first = await anext(body, None)

    async def whole() -> AsyncIterator[bytes]:
        if first is not None:
            yield first
            async for piece in body:
                yield piece

    return whole()


def _steps(unpack: Any, piece: bytes) -> Iterator[bytes]:
    if unpack is None:
        yield piece
        return
    while True:
        if unpack.eof and piece:
            raise BadRequest(400, "there is something after the end of the gzip body")
        try:
            plain = unpack.decompress(piece, _STEP)
        except zlib.error:
            raise BadRequest(400, "the body is not gzip") from None
        if unpack.unused_data:
            raise BadRequest(400, "there is something after the end of the gzip body")
        piece = unpack.unconsumed_tail
        if plain:
            yield plain
        if not piece and len(plain) < _STEP:  # a full step may hide more that needs no further input
            return
