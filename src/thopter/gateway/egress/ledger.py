"""What went out and what was refused: a ring of records; floods of refusals are counted together."""

from __future__ import annotations

import asyncio
import heapq
import time
from collections import OrderedDict, deque
from collections.abc import Mapping
from typing import Any

from msgspec import Struct

from thopter.model.errors import BadInput

_RING = 5000
_SAME_SECONDS = 5.0
_NEW_PER_SECOND = 5.0
_NEW_BURST = 50.0
_KEYS = 2000


class Record(Struct, frozen=True, kw_only=True):
    """One connection or request that ended, or (``verdict`` deny, ask) did not begin. ``use``: the secret
    of that name goes out by credential ``code``. ``count`` above 1: so many like it since the last record of
    its kind. ``was``: of a push, the commit before (``detail``: the one pushed)."""

    seq: int = 0
    at_ms: int
    box: str
    run: str
    verdict: str
    code: str = ""
    reason: str = ""
    scheme: str = ""
    method: str = ""
    host: str = ""
    port: int = 0
    path: str = ""
    rule: str = ""
    address: str = ""
    status: int = 0
    sent: int = 0
    received: int = 0
    ms: float = 0.0
    count: int = 1
    once: bool = False
    secret: str = ""
    was: str = ""
    detail: str = ""


class Page(Struct, frozen=True):
    """Records after a cursor; ``dropped`` counts those that fell out of the ring before being read."""

    records: list[Record]
    next: int
    dropped: int


class _Same(Struct):
    until: float
    record: Record
    more: int = 0


class _Quota(Struct):
    """How many different refusals a box may have recorded: a bucket that refills."""

    left: float
    at: float


class Ledger:
    """In memory only: a new process has another ``boot`` and an empty ring."""

    def __init__(self) -> None:
        # Of what went out a box can make as much as it likes: it must not push out what it was refused.
        self._passed: deque[Record] = deque(maxlen=_RING)
        self._told: deque[Record] = deque(maxlen=_RING)
        self._seq = 0
        self._news = asyncio.Event()
        self._same: OrderedDict[tuple[str, ...], _Same] = OrderedDict()
        self._quota: dict[str, _Quota] = {}

    def add(self, record: Record) -> Record | None:
        """Keep a record; returns it as numbered, or None when it was only counted."""
        if record.verdict == "allow":
            return self._append(record)
        now = time.monotonic()
        self.flush(now)
        key: tuple[str, ...] = (
            record.box,
            record.verdict,
            record.code,
            record.host,
            str(record.port),
            record.method,
        )
        if record.verdict == "use":  # as many kinds of it as the policy has credentials and hosts
            key = (record.box, "use", record.run, record.code, record.secret, record.host, str(record.port))
        elif key not in self._same and not self._may(record.box, now):
            record = _blurred(record)
            key = (record.box, record.verdict)
        known = self._same.get(key)
        if known is not None:
            known.more += 1
            known.record = record
            return None
        self._same[key] = _Same(now + _SAME_SECONDS, record)
        while len(self._same) > _KEYS:
            self._settle(self._same.popitem(last=False)[1])
        return self._append(record)

    def flush(self, now: float) -> list[Record]:
        """Record what was only counted, where its time is over; returns those records."""
        done = []
        while self._same:
            key, first = next(iter(self._same.items()))
            if first.until > now:
                break
            del self._same[key]
            settled = self._settle(first)
            if settled is not None:
                done.append(settled)
        return done

    def _settle(self, same: _Same) -> Record | None:
        if not same.more:
            return None
        fields = {f: getattr(same.record, f) for f in same.record.__struct_fields__} | {"count": same.more}
        return self._append(Record(**fields))

    def _may(self, box: str, now: float) -> bool:
        quota = self._quota.setdefault(box, _Quota(_NEW_BURST, now))
        quota.left = min(quota.left + (now - quota.at) * _NEW_PER_SECOND, _NEW_BURST)
        quota.at = now
        if quota.left < 1:
            return False
        quota.left -= 1
        return True

    def _append(self, record: Record) -> Record:
        self._seq += 1
        fields = {f: getattr(record, f) for f in record.__struct_fields__} | {"seq": self._seq}
        kept = Record(**fields)
        (self._passed if kept.verdict == "allow" else self._told).append(kept)
        self._news.set()
        return kept

    def forget(self, box: str) -> None:
        """The box is gone."""
        self._quota.pop(box, None)

    async def page(self, after: int, box: str, limit: int, wait_seconds: float) -> Page:
        """Records numbered above ``after``; waits up to ``wait_seconds`` for the first one."""
        if after >= self._seq and wait_seconds > 0:
            self._news.clear()
            try:
                async with asyncio.timeout(wait_seconds):
                    await self._news.wait()
            except TimeoutError:
                return Page(records=[], next=max(after, self._seq), dropped=0)
        there = [r for r in heapq.merge(self._passed, self._told, key=lambda r: r.seq) if r.seq > after]
        found = [r for r in there if not box or r.box == box]
        page = found[:limit]
        following = page[-1].seq if len(found) > limit else self._seq
        dropped = following - after - sum(r.seq <= following for r in there)
        return Page(records=page, next=following, dropped=max(dropped, 0))


def _blurred(record: Record) -> Record:
    """Too many different refusals: only that there were more of them is kept."""
    return Record(
        at_ms=record.at_ms,
        box=record.box,
        run=record.run,
        verdict=record.verdict,
        code="flood",
        reason="too many different refusals to record each",
    )


def log_request(request: Mapping[str, Any]) -> tuple[int, str, int, float]:
    """Read a ``log`` request: after, box, limit, seconds to wait; raises BadInput."""
    numbers = [request.get(n, d) for n, d in (("after", 0), ("limit", 500), ("wait_ms", 0))]
    if not all(isinstance(n, int) and n >= 0 for n in numbers):
        raise BadInput("after, limit and wait_ms are whole numbers from 0")
    after, limit, wait_ms = (int(n) for n in numbers if isinstance(n, int))
    return after, str(request.get("box", "")), min(max(limit, 1), 2000), min(wait_ms, 30_000) / 1000
