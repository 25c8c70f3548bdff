"""Connections for the fleet in memory: to ports of this machine."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Literal

from thopter.model.errors import NotNow


class MemoryDials:
    """See ``thopter.hub.ports.dials.DialsPort``."""

    def __init__(self, find: Callable[[str], object]) -> None:
        self._find = find

    @asynccontextmanager
    async def open(self, name: str, port: int) -> AsyncIterator[MemoryDialled]:
        self._find(name)
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
        except OSError:
            raise NotNow(f"nothing listens on port {port}") from None
        try:
            yield MemoryDialled(reader, writer)
        finally:
            writer.close()


class MemoryDialled:
    """See ``thopter.hub.ports.ExecSession``."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer

    async def __aiter__(self) -> AsyncIterator[tuple[int, bytes]]:
        while data := await self._reader.read(65536):
            yield 1, data

    async def write(self, data: bytes) -> None:
        self._writer.write(data)
        await self._writer.drain()

    async def eof(self) -> None:
        self._writer.write_eof()

    async def resize(self, rows: int, cols: int) -> None:
        return

    async def signal(self, name: str) -> None:
        return

    async def wait(self) -> tuple[Literal["exit", "signal"], int]:
        return "exit", 0
