"""Connections to ports inside boxes, over the box's own channel: the box needs no route for them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Literal

from thopter.fleet.live import LiveBox
from thopter.kit.boxstreams import BoxStream
from thopter.model.errors import NotNow, ProviderError
from thopter.model.nouns import Box, Run

_LOOPBACK = ("127.0.0.1", "::1")


class Dials:
    """One for the fleet; ``find`` gives the box that is up, or raises why it is not."""

    def __init__(
        self,
        find: Callable[[str], Awaitable[tuple[LiveBox, Run]]],
        record: Callable[[Box, Run, int], Awaitable[None]],
    ) -> None:
        self._find = find
        self._record = record

    @asynccontextmanager
    async def open(self, name: str, port: int) -> AsyncIterator[Dialled]:
        """A connection to ``port`` on the box's loopback; NotNow when nothing listens there."""
        live, run = await self._find(name)
        link = await live.link()
        await self._record(live.box, run, port)
        async with AsyncExitStack() as stack:
            for host in _LOOPBACK:
                try:
                    stream = await stack.enter_async_context(link.dial(port, host))
                    break
                except ProviderError as e:
                    if host == _LOOPBACK[-1]:
                        raise NotNow(
                            f"nothing listens on port {port} in {live.box.name}",
                            hint=f"start it there, bound to 127.0.0.1; see 'thopter exec {live.box.name} "
                            f"-- ss -ltn' ({e.message})",
                        ) from None
            yield Dialled(stream)


class Dialled:
    """A connection as a session of the hub: what comes from the port is stream 1. It ends when the
    port ends its direction."""

    def __init__(self, stream: BoxStream) -> None:
        self._stream = stream

    async def __aiter__(self) -> AsyncIterator[tuple[int, bytes]]:
        while data := await self._stream.read():
            yield 1, data

    async def write(self, data: bytes) -> None:
        """Send; waits until there is room."""
        await self._stream.write(data)

    async def eof(self) -> None:
        """End our direction; the port's goes on."""
        await self._stream.eof()

    async def resize(self, rows: int, cols: int) -> None:
        """A connection has no size."""

    async def signal(self, name: str) -> None:
        """A connection takes no signals."""

    async def wait(self) -> tuple[Literal["exit", "signal"], int]:
        """It ended in good order."""
        return "exit", 0
