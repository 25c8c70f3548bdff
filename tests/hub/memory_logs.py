"""Logs for the fleet in memory: as little as the routes need."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable

from thopter.model.api.log import LogLine, LogLines


class MemoryLogs:
    """See ``thopter.hub.ports.log.LogsPort``; ``find`` raises when there is no such thopter."""

    def __init__(self, find: Callable[[str], object]) -> None:
        self._find = find

    async def entries(self, name: str) -> AsyncIterator[bytes]:
        self._find(name)
        yield b"{}\n"

    async def raw(self, name: str) -> AsyncIterator[bytes]:
        self._find(name)
        yield b"{}\n"

    async def page(self, name: str, refresh: int) -> AsyncIterator[bytes]:
        self._find(name)
        yield b"<!DOCTYPE html>"

    async def steps(self, name: str) -> LogLines:
        self._find(name)
        return LogLines(lines=[LogLine(seq=1, at_ms=1, kind="note", text="hello")])
