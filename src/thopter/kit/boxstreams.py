"""Streams of a box as the hub holds them: a command under way, and a relayed connection."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any, Literal

from msgspec import Struct

from thopter.boxd import wire
from thopter.kit.boxmux import MuxChannel, clean
from thopter.model.errors import ProviderError


class ExecResult(Struct, frozen=True, kw_only=True):
    """How a command ended and what it wrote. Exactly one of ``exit`` and ``signal`` is set.
    ``truncated``: more was written than the cap, the rest was discarded."""

    stdout: bytes
    stderr: bytes
    exit: int | None = None
    signal: int | None = None
    timed_out: bool = False
    truncated: bool = False


def ending(end: dict[str, Any]) -> tuple[Literal["exit", "signal"], int]:
    """Read boxd's word on how a process ended; nonsense is a ProviderError."""
    code, number = end.get("exit"), end.get("signal")
    if isinstance(code, int) and 0 <= code <= 255:
        return "exit", code
    if isinstance(number, int) and 1 <= number <= 64:
        return "signal", number
    raise ProviderError("boxd did not say how the command ended")


class ExecStream:
    """One command under way. Iterating yields ``(stream, data)``, stream 1 or 2, in order of
    arrival, until all is read; not iterating holds the command back. The command is killed when
    the block that opened it is left, or when the connection is lost (then ProviderError)."""

    def __init__(self, channel: MuxChannel) -> None:
        self._channel = channel
        self.pid = 0

    async def begin(self) -> None:
        """Wait until it runs. Raises NotFound for a missing program or folder, BadInput, …"""
        item = await self._channel.next()
        if isinstance(item, wire.Message):
            started = item.body.get("started")
            pid = started.get("pid") if isinstance(started, dict) else None
            if isinstance(pid, int):
                self.pid = pid
                return
        raise ProviderError("boxd did not start the command")

    def __aiter__(self) -> AsyncIterator[tuple[int, bytes]]:
        return self._output()

    async def _output(self) -> AsyncIterator[tuple[int, bytes]]:
        while (item := await self._channel.next()) is not None:
            if isinstance(item, wire.Data):
                yield item.stream, item.data

    async def write(self, data: bytes) -> None:
        """Give it input; waits until there is room. What it can't take any more is dropped."""
        await self._channel.write(data)

    def post(self, data: bytes) -> None:
        """Give it all of its input at once; it leaves as there is room, and then ends."""
        self._channel.post(data)
        self._channel.post_eof()

    async def eof(self) -> None:
        """End its input; output goes on."""
        self._channel.post_eof()

    async def resize(self, rows: int, cols: int) -> None:
        """Tell its terminal the new size; without a terminal nothing happens."""
        self._channel.say({"resize": [rows, cols]})

    async def signal(self, name: str) -> None:
        """Send it a signal by name (``TERM``); ended already: nothing happens."""
        self._channel.say({"signal": name})

    async def wait(self) -> tuple[Literal["exit", "signal"], int]:
        """How it ended; output that was not read before is discarded."""
        return ending(await self._channel.result())

    @property
    def timed_out(self) -> bool:
        """True when it was killed because its time was over. Known after the end."""
        return bool(self._channel.end and self._channel.end.get("timeout"))


class BoxStream:
    """One TCP connection inside a box, relayed: reads end with ``b""``, each direction by itself."""

    def __init__(self, channel: MuxChannel, serving: bool) -> None:
        """``serving``: boxd opened the channel (a connection that a listener took)."""
        self._channel = channel
        self._serving = serving
        self._ended = False

    async def read(self) -> bytes:
        """The next bytes; ``b""`` when the other side has ended its direction. Raises
        ProviderError when the connection or the box is lost."""
        while not self._ended:
            item = await self._channel.next()
            if isinstance(item, wire.Data):
                return item.data
            if item is None or item.body.get("eof") == wire.STDOUT:
                self._ended = True
        return b""

    async def write(self, data: bytes) -> None:
        """Send bytes; waits until there is room. What can't be delivered any more is dropped."""
        await self._channel.write(data)

    async def eof(self) -> None:
        """End our direction; the other goes on."""
        self._channel.post_eof()

    def close(self) -> None:
        """End both directions now; what was written before is still delivered. Idempotent."""
        if self._serving:
            self._channel.finish()
        self._ended = True

    async def __aenter__(self) -> BoxStream:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.close()


_MAX_LINE = 9 << 20  # boxd cuts lines at 8 MiB


class LinePieces:
    """Puts lines of tail that came in several messages together again; holds one line at most."""

    def __init__(self) -> None:
        self._file = ""
        self._pieces: list[bytes] = []
        self._size = 0

    def take(self, body: dict[str, Any]) -> dict[str, Any] | None:
        """Take a message of tail; return it checked and with whole lines, or None when its line
        goes on. Raises ProviderError for what boxd would never send."""
        if isinstance(body.get("reset"), str):
            self._forget("")
            return {"reset": clean(body["reset"], exact=True)}
        file, offset, lines = body.get("file"), body.get("offset"), body.get("lines")
        fine = isinstance(lines, list) and lines and all(isinstance(line, str) for line in lines)
        if not fine or not isinstance(file, str) or not isinstance(offset, int) or offset < 0:
            raise ProviderError("boxd sent a malformed part of a file")
        assert isinstance(lines, list)  # just checked
        texts: list[str] = clean(lines, exact=True)
        if file != self._file:
            self._forget(file)  # the rest of that line will not come: its file began anew
        if body.get("more") is True:
            self._keep(texts[0])
            return None
        if self._pieces:
            self._keep(texts[0])
            texts[0] = wire.to_text(b"".join(self._pieces))
        self._forget("")
        cut = body.get("truncated") is True
        return {"file": clean(file, exact=True), "offset": offset, "lines": texts, "truncated": cut}

    def _keep(self, text: str) -> None:
        self._pieces.append(wire.to_bytes(text))
        self._size += len(self._pieces[-1])
        if self._size > _MAX_LINE:
            raise ProviderError("boxd sent a line without end")

    def _forget(self, file: str) -> None:
        self._file, self._pieces, self._size = file, [], 0
