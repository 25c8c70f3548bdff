"""What a box reports of its own work (``thopter-status``), as boxd journaled it: hostile like all of it.

``done``, ``waiting`` and ``running`` are declarations, and become evidence; a status line becomes the
agent's label; all of them become ``box.said`` events.
"""

from __future__ import annotations

from typing import Any

from msgspec import Struct

from thopter.fleet.live import LiveBox
from thopter.kit.sanitize import clean, one_line
from thopter.model.api.talk import LINE_MAX
from thopter.model.events import Event
from thopter.model.evidence import Evidence, Fact, Source

_FACTS = {
    "done": Fact.DECLARED_DONE,
    "waiting": Fact.DECLARED_WAITING,
    "running": Fact.DECLARED_OPEN,
}
_VERBS = (*_FACTS, "log", "inactive", "statusline", "message")
_TEXT_MAX = 2000


class Report(Struct, frozen=True, kw_only=True):
    """One report, made harmless."""

    verb: str
    text: str
    at_ms: int
    evidence: tuple[Evidence, ...] = ()


def read(record: dict[str, Any], at_ms: int, now_ms: int) -> Report | None:
    """A record of kind ``said``; None when it makes no sense."""
    verb, text = record.get("verb"), record.get("text")
    if not isinstance(verb, str) or verb not in _VERBS or not isinstance(text, str):
        return None
    text = text[: 4 * _TEXT_MAX]
    limit = LINE_MAX if verb == "statusline" else _TEXT_MAX
    text = clean(text)[:limit].strip() if verb == "message" else one_line(text, limit)
    facts: tuple[Evidence, ...] = ()
    if verb in _FACTS:
        said = "by the agent" + (f": {one_line(text, 400)}" if text else "")
        facts = (
            Evidence(
                source=Source.DECLARED, fact=_FACTS[verb], at_ms=at_ms, seen_ms=now_ms, detail=said,
                data={"by": "agent"},
            ),
        )  # fmt: skip
    return Report(verb=verb, text=text, at_ms=min(at_ms, now_ms), evidence=facts)


async def keep(live: LiveBox, reports: list[Report]) -> list[Event]:
    """Store what they change (safe to repeat) and return their events, to be stored with the cursor."""
    events = []
    lines = [r for r in reports if r.verb == "statusline"]
    if lines and live.run is not None:
        last = lines[-1]
        await live.deps.store.talk.label(
            live.box.id, "statusline", "agent", live.run.id, last.at_ms, last.text
        )
    for report in reports:
        if report.verb == "message" and report.at_ms >= live.last_message_ms:
            live.last_message, live.last_message_ms = one_line(report.text, 200), report.at_ms
        data = {"name": live.box.name, "verb": report.verb, "text": report.text}
        events.append(
            Event(
                kind="box.said", at_ms=report.at_ms, box=live.box.id, run=live.run.id if live.run else "",
                data=data,
            )
        )  # fmt: skip
    return events
