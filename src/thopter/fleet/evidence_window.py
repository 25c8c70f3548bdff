"""What of a run's evidence can still matter: admission, order, and a bounded window.

The window is a *selection of the newest* per kind of fact, so it is the same whatever the order,
the batches or the repetitions in which evidence arrived, and taking it twice changes nothing.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any

from msgspec import structs

from thopter.model.evidence import Evidence, Fact, Source

_LIFELESS = frozenset({Fact.BOX_SILENT, Fact.BOX_FROZEN, Fact.BOX_GONE})
BOX_SOURCES = frozenset({Source.HOOK, Source.TRANSCRIPT, Source.PROCESS, Source.SCREEN, Source.HEARTBEAT})
ASKS = (Fact.PERMISSION_ASKED, Fact.QUESTION_ASKED)
CLOSINGS = (Fact.TURN_ENDED, Fact.TURN_FAILED, Fact.INTERRUPTED)
STATUSES = (Fact.BUSY, Fact.IDLE)
_BOUNDARIES = (*CLOSINGS, Fact.TURN_STARTED)
_BY_CALL = {
    Fact.PERMISSION_ASKED: 16,
    Fact.QUESTION_ASKED: 16,
    Fact.ANSWERED: 64,
    Fact.ACTIVITY: 64,
}

# Facts of the same millisecond: a turn ends before the next starts, a tool is used before its
# permission is asked, and a death is the last thing that happens.
_FACT_RANK = {
    fact: rank
    for rank, fact in enumerate(
        (
            Fact.LAUNCHED,
            Fact.SESSION_STARTED,
            Fact.TURN_ENDED,
            Fact.TURN_FAILED,
            Fact.INTERRUPTED,
            Fact.IDLE,
            Fact.TURN_STARTED,
            Fact.BUSY,
            Fact.ACTIVITY,
            Fact.RATE_LIMITED,
            Fact.OVER_BUDGET,
            Fact.BUDGET_RAISED,
            Fact.PERMISSION_ASKED,
            Fact.QUESTION_ASKED,
            Fact.ANSWERED,
            Fact.DECLARED_DONE,
            Fact.DECLARED_WAITING,
            Fact.DECLARED_OPEN,
            Fact.STOP_REQUESTED,
            Fact.SESSION_ENDED,
            Fact.PROCESS_ALIVE,
            Fact.BOX_ALIVE,
            Fact.BOX_SILENT,
            Fact.BOX_FROZEN,
            Fact.PROCESS_EXITED,
            Fact.BOX_GONE,
        )
    )
}
_SOURCE_RANK = {source: rank for rank, source in enumerate(reversed(Source))}


def order(item: Evidence) -> tuple[int, int, int, int, str, str]:
    """Return the sort key of evidence: a total order by event time that ignores arrival order."""
    return (
        item.at_ms,
        _FACT_RANK[item.fact],
        _SOURCE_RANK[item.source],
        item.seen_ms,
        item.detail,
        json.dumps(item.data, sort_keys=True, default=repr) if item.data else "",
    )


def _newer_seen(item: Evidence) -> tuple[int, tuple[int, int, int, int, str, str]]:
    return (item.seen_ms, order(item))


def admit(item: Evidence, offset_ms: int = 0) -> Evidence:
    """Bring evidence from a box onto the hub's clock, once, when it is read.

    ``offset_ms`` is hub time minus box time. Nothing can have happened after the hub saw it: a
    later date (a wrong clock, or a lying box) is cut to ``seen_ms``, so that no box can write a
    fact that outlasts every later one.
    """
    return structs.replace(item, at_ms=min(item.at_ms + offset_ms, item.seen_ms))


def clock_offset(samples: Iterable[tuple[int, int, int]]) -> int:
    """Return hub time minus box time from ``(sent, box_time, received)`` of pings, all in ms.

    The quickest round trip knows best (its error is at most half its length); no samples, no offset.
    """
    best = min(samples, key=lambda s: (s[2] - s[0], s), default=None)
    return 0 if best is None else (best[0] + best[2]) // 2 - best[1]


def call_of(item: Evidence) -> str:
    """Return the name of the tool call that evidence belongs to, empty when it says none."""
    return text(item, "call")


def text(item: Evidence, key: str) -> str:
    """Return ``data[key]`` when it is a string, else empty: data comes from a box, any shape of it."""
    value: Any = item.data.get(key)
    return value if isinstance(value, str) else ""


def number(item: Evidence, key: str) -> int | None:
    """Return ``data[key]`` when it is a whole number, else None."""
    value: Any = item.data.get(key)
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def prune(evidence: Iterable[Evidence]) -> tuple[Evidence, ...]:
    """Keep what can still change a verdict, sorted; at most about 300 items whatever comes in.

    Kept: the newest of each (source, fact); the newest sign of life; and, of the present turn, the
    newest asks, answers and activities of each tool call. ``fold`` looks at nothing else, so
    ``fold(prune(e)) == fold(e)``, also when new evidence is added to a pruned window.
    """
    kept, sign = _select(evidence)
    return _sorted([*kept, sign] if sign is not None else kept)


def _select(evidence: Iterable[Evidence]) -> tuple[list[Evidence], Evidence | None]:
    """Return what decides, and apart from it the sign of life that was read last."""
    newest: dict[tuple[str, str, str], Evidence] = {}
    sign: Evidence | None = None
    by_call: dict[tuple[str, str, str], Evidence] = {}
    for item in evidence:
        # boxd names the process when it starts; a heartbeat that only says "alive" must not hide it.
        named = item.fact is Fact.PROCESS_ALIVE and number(item, "pid") is not None
        _keep(newest, (item.source, item.fact, "pid" if named else ""), item)
        if item.fact in _BY_CALL and call_of(item):
            _keep(by_call, (item.source, item.fact, call_of(item)), item)
        if is_sign_of_life(item) and (sign is None or item.seen_ms >= sign.seen_ms):
            sign = item if sign is None else max(sign, item, key=_newer_seen)
    boundary = max((i.at_ms for i in newest.values() if i.fact in _BOUNDARIES), default=None)
    kept = list(newest.values())
    for fact, limit in _BY_CALL.items():
        found = [i for i in by_call.values() if i.fact is fact and (boundary is None or i.at_ms >= boundary)]
        kept += sorted(found, key=order)[-limit:]
    return kept, sign


def _sorted(items: list[Evidence]) -> tuple[Evidence, ...]:
    return tuple(sorted({order(item): item for item in items}.values(), key=order))


def _keep(table: dict[tuple[str, str, str], Evidence], key: tuple[str, str, str], item: Evidence) -> None:
    old = table.get(key)
    # Dates nearly always differ, and decide first in ``order``; the rest is dear.
    if old is None or item.at_ms > old.at_ms or (item.at_ms == old.at_ms and order(item) > order(old)):
        table[key] = item


def is_sign_of_life(item: Evidence) -> bool:
    """Say whether reading this proves that the box answered when it was read."""
    return item.source in BOX_SOURCES and item.fact not in _LIFELESS


class Window:
    """The evidence that decides, with questions about it. ``heard_ms``: when the box last answered
    anything, by the hub's clock; None when it never did. ``items`` are in :func:`order`."""

    def __init__(self, items: Sequence[Evidence], heard_ms: int | None) -> None:
        self.items = items
        self.heard_ms = heard_ms

    @classmethod
    def of(cls, evidence: Iterable[Evidence]) -> Window:
        """Look at evidence as it came in, pruned or not."""
        kept, sign = _select(evidence)
        return cls(_sorted(kept), None if sign is None else sign.seen_ms)

    def since(self, since_ms: int | None) -> Window:
        """Hide facts of earlier lives."""
        if since_ms is None:
            return self
        return Window([i for i in self.items if i.at_ms >= since_ms], self.heard_ms)

    def last(self, *facts: Fact, sources: frozenset[Source] | None = None) -> Evidence | None:
        """Return the newest evidence of these facts (from these sources), or None."""
        found = (i for i in reversed(self.items) if i.fact in facts)
        return next((i for i in found if sources is None or i.source in sources), None)

    def all(self, *facts: Fact) -> list[Evidence]:
        """Return every kept evidence of these facts, oldest first."""
        return [i for i in self.items if i.fact in facts]

    def last_status(self) -> Evidence | None:
        """Return the agent's status as last shown; of one date, the later reading is the present."""
        found = (
            i for i in self.items if i.fact in STATUSES or (i.fact in ASKS and i.source is Source.SCREEN)
        )
        return max(found, key=lambda i: (i.at_ms, i.seen_ms, order(i)), default=None)
