"""Live events for many listeners: read from the store once, encoded once, kept for a while.

Every listener has a cursor and asks for what comes after it, from the newest events kept here or,
when it is further behind, from the store. Replay and live are therefore one thing: there is no
moment between them at which an event could be lost or come twice, and a listener that is slow costs
nothing but its cursor.
"""

from __future__ import annotations

import asyncio
import bisect
import contextlib
import logging
import re
from collections.abc import Iterator

from msgspec import Struct

from thopter.hub.answers import encode
from thopter.hub.ports import EventsPort
from thopter.model.events import Event
from thopter.store.events import EventFilter

log = logging.getLogger("thopter.hub.feed")

_KEEP = 4096
_KEEP_BYTES = 8 << 20
_READ = 512
_REPLAY = 64
_REPLAYS_AT_ONCE = 8
CHUNK_BYTES = 64 << 10
_LINE_END = re.compile(r"[\r\n\x00]")


class _Kept(Struct, frozen=True):
    seq: int
    kind: str
    box: str
    run: str
    flow: str
    text: bytes

    def passes(self, want: EventFilter) -> bool:
        return (
            (not want.box or want.box == self.box)
            and (not want.run or want.run == self.run)
            and (not want.flow or want.flow == self.flow)
            and (not want.kinds or self.kind in want.kinds)
        )


def encode_event(event: Event) -> bytes:
    """One event as SSE: ``id``, ``event``, ``data`` (one line of JSON)."""
    kind = _LINE_END.sub(" ", event.kind)
    return f"id: {event.seq}\nevent: {kind}\ndata: ".encode() + encode(event) + b"\n\n"


class Feed:
    """The newest events; see the module. After a hub restart cursors go on: the store has all."""

    def __init__(self, events: EventsPort) -> None:
        self._events = events
        self._kept: list[_Kept] = []
        self._bytes = 0
        self._base = events.last()  # everything numbered above this, up to _head, is in _kept
        self._head = self._base
        self._news = asyncio.Event()
        self._listeners = 0
        self._wanted = asyncio.Event()
        self._replays = asyncio.Semaphore(_REPLAYS_AT_ONCE)
        self.closed = False

    def close(self) -> None:
        """Wake every listener; there will be nothing more."""
        self.closed = True
        self._tell()

    @contextlib.contextmanager
    def listening(self) -> Iterator[None]:
        """Events are followed while somebody is inside this."""
        self._listeners += 1
        self._wanted.set()
        try:
            yield
        finally:
            self._listeners -= 1

    async def run(self) -> None:
        """Follow the store until cancelled. Trouble with the store is logged and tried again."""
        while True:
            try:
                if self._listeners == 0:
                    await self._rest()
                await self._events.changed(self._head)
                await self._take_in()
            except Exception as error:  # listeners must survive a store that fails for a while
                log.error("events can't be read", exc_info=error)
                await asyncio.sleep(1)

    async def _rest(self) -> None:
        """Keep nothing while nobody listens; begin again at the present."""
        self._wanted.clear()
        self._kept.clear()
        self._bytes = 0
        self._base = self._head
        await self._wanted.wait()
        self._base = self._head = self._events.last()
        self._tell()

    async def _take_in(self) -> None:
        page = await self._events.read(self._head, _READ)
        for event in page.events:
            text = encode_event(event)
            self._kept.append(_Kept(event.seq, event.kind, event.box, event.run, event.flow, text))
            self._bytes += len(text)
        self._head = page.upto
        self._drop_oldest()
        self._tell()

    def _drop_oldest(self) -> None:
        drop, size = 0, self._bytes
        while drop < len(self._kept) and (len(self._kept) - drop > _KEEP or size > _KEEP_BYTES):
            size -= len(self._kept[drop].text)
            drop += 1
        if drop:
            self._base = self._kept[drop - 1].seq
            self._bytes = size
            del self._kept[:drop]

    def _tell(self) -> None:
        self._news.set()
        self._news = asyncio.Event()

    def last(self) -> int:
        """Number of the newest committed event."""
        return self._events.last()

    async def wait(self, cursor: int) -> None:
        """Return when there may be events after ``cursor``, or the feed is closed."""
        while self._head <= cursor and not self.closed:
            await self._news.wait()

    async def after(self, cursor: int, want: EventFilter) -> tuple[bytes, int]:
        """Encoded events after ``cursor`` (about ``CHUNK_BYTES`` at most) and the new cursor. Empty
        with an unmoved cursor: there is nothing yet."""
        if cursor >= self._base:
            return self._from_kept(cursor, want)
        return await self._from_store(cursor, want)

    def _from_kept(self, cursor: int, want: EventFilter) -> tuple[bytes, int]:
        texts: list[bytes] = []
        size = 0
        start = bisect.bisect_right(self._kept, cursor, key=lambda kept: kept.seq)
        for at in range(start, len(self._kept)):
            kept = self._kept[at]
            cursor = kept.seq
            if kept.passes(want):
                texts.append(kept.text)
                size += len(kept.text)
                if size >= CHUNK_BYTES:
                    break
        return b"".join(texts), cursor

    async def _from_store(self, cursor: int, want: EventFilter) -> tuple[bytes, int]:
        async with self._replays:  # many slow listeners at once must not fill the memory
            page = await self._events.read(cursor, _REPLAY, want)
            texts: list[bytes] = []
            size = 0
            for event in page.events:
                texts.append(encode_event(event))
                size += len(texts[-1])
                if size >= CHUNK_BYTES:
                    return b"".join(texts), event.seq
            return b"".join(texts), page.upto
