"""Waiting until a box's boxd answers: a connection and one ``hello``."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from thopter.boxd import wire
from thopter.model.errors import ProviderError, TimedOut
from thopter.model.sockets import Stream


async def connect(path: Path) -> Stream:
    """Open a stream to the unix socket ``path``. Raises OSError."""
    return await asyncio.open_unix_connection(str(path), limit=wire.MAX_FRAME)


async def hello(path: Path, seconds: float) -> dict[str, Any]:
    """Return boxd's answer to ``hello``; TimedOut when none comes in time."""
    try:
        async with asyncio.timeout(seconds):
            reader, writer = await connect(path)
            try:
                writer.write(wire.message(0, {"op": "hello", "protocol": wire.PROTOCOL}))
                return await _answer(reader)
            finally:
                writer.close()
    except TimeoutError:
        raise TimedOut(f"boxd did not answer within {seconds:.0f} s") from None
    except (OSError, wire.ProtocolError) as e:
        raise ProviderError(f"boxd does not answer: {e}") from None


async def _answer(reader: asyncio.StreamReader) -> dict[str, Any]:
    decoder = wire.Decoder()
    while data := await reader.read(65536):
        for item in decoder.feed(data):
            if isinstance(item, wire.Message) and item.channel == 0:
                if "error" in item.body:
                    raise wire.ProtocolError(str(item.body["error"])[:600])
                return item.body
    raise wire.ProtocolError("boxd closed the connection")
