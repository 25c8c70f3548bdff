"""The model gateway's account of requests: counters per box, and a bounded ring of the last ones."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Any

from msgspec import Struct, to_builtins

from thopter.gateway.model.book import Books
from thopter.gateway.model.usage import LastLimit, Record, Usage

_RING = 2000
_BOXES = 5000
_COUNTED = "/v1/messages"  # counting tokens, or listing models, costs nothing


class LogPage(Struct, frozen=True):
    """Records after a cursor; ``dropped`` counts those that fell out of the ring before being read."""

    records: list[Record]
    next: int
    dropped: int


class Ledger:
    """Counters and ring are in memory only: after a restart they are empty and ``boot`` has changed. The
    ``books`` are what adds up: every real model call stands in them, also after a restart."""

    def __init__(self, books: Books | None = None) -> None:
        self.books = books
        self._usage: dict[str, Usage] = {}
        self._ring: deque[Record] = deque(maxlen=_RING)
        self._seq = 0
        self._news = asyncio.Event()

    def say(self, fields: dict[str, Any]) -> None:
        """Put word of a call that is not over into the ring; nothing is counted."""
        self._seq += 1
        self._ring.append(Record(seq=self._seq, **fields))
        self._news.set()

    def add(self, fields: dict[str, Any], limit: LastLimit | None) -> None:
        """Count one finished request."""
        self._seq += 1
        record = Record(seq=self._seq, **fields)
        self._ring.append(record)
        if self.books is not None and record.path == _COUNTED and not record.refused:
            self.books.add(to_builtins(record))
        usage = self._usage.setdefault(record.box, Usage())
        usage.count(record)
        if limit is not None:
            usage.last_limit = limit
        while len(self._usage) > _BOXES:
            del self._usage[next(iter(self._usage))]
        self._news.set()

    def usage(self, box: str) -> Usage:
        """What ``box`` used; zeros for a box never seen."""
        return self._usage.get(box, Usage())

    async def page(self, after: int, box: str, limit: int, wait_seconds: float) -> LogPage:
        """Records numbered above ``after``; waits up to ``wait_seconds`` for the first one."""
        if after >= self._seq and wait_seconds > 0:
            self._news = self._news if not self._news.is_set() else asyncio.Event()
            try:
                async with asyncio.timeout(wait_seconds):
                    await self._news.wait()
            except TimeoutError:
                return LogPage(records=[], next=max(after, self._seq), dropped=0)
        first = self._ring[0].seq if self._ring else self._seq + 1
        found = [r for r in self._ring if r.seq > after and (not box or r.box == box)]
        page = found[:limit]
        following = page[-1].seq if len(found) > limit else self._seq
        return LogPage(records=page, next=following, dropped=max(first - 1 - after, 0))
