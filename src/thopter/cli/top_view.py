"""What ``thopter top`` shows of a thopter, by width; pure, and safe for a terminal."""

from __future__ import annotations

from collections.abc import Sequence

from thopter.cli import others_view
from thopter.cli.status_view import cost, state_of
from thopter.cli.text import STATE_COLOURS, span
from thopter.kit.sanitize import one_line
from thopter.model.api import ThopterView

SORTS = ("need", "name", "age", "new")
_NEED = {
    "waiting": 0,
    "failed": 1,
    "unknown": 2,
    "working": 3,
    "starting": 4,
    "queued": 4,
    "done": 5,
    "stopped": 6,
}
_REASONS = {"permission": "asks", "question": "asks", "turn_end": "waits", "rate_limit": "limited"}
_ASLEEP = ("frozen", "suspended", "stopped", "gone")
_LONG = 400


def columns_for(width: int) -> list[tuple[str, int]]:
    """Headings and sizes of the columns that a screen of ``width`` has room for; the sum fits."""
    fixed = [("NAME", 14 if width < 80 else 20), ("STATE", 10), ("FOR", 4)]
    if width >= 100:
        fixed.append(("REPO", 16))
    if width >= 110:
        fixed.append(("COST", 7))
    if width >= 130:
        fixed += [("AGENT", 8), ("NOTE", 18)]
    room = width - sum(size + 2 for _, size in fixed) - 3  # a blank on each side, a bar to scroll
    if width >= 90:
        return [*fixed, ("TASK", room * 2 // 5), ("LAST WORDS", room - room * 2 // 5 - 2)]
    return [*fixed, ("LAST WORDS", max(room, 10))]


def short_state(view: ThopterView) -> str:
    """One word for the state; a waiting thopter's says what it wants."""
    if view.box_state not in ("ready", ""):
        return one_line(view.box_state, 10)
    if others_view.asking(view):
        return "asks"
    if view.state == "waiting":
        return _REASONS.get(view.reason, "waits")
    return one_line(view.state, 10) or "-"


def style_of(view: ThopterView) -> str:
    """Its colour, as rich names it."""
    if view.box_state in ("lost", "gone"):
        return "red"
    if view.box_state in _ASLEEP:
        return "bright_black"
    if others_view.asking(view):
        return "bold bright_yellow"
    if view.state == "waiting":
        return "bold bright_yellow" if view.reason in ("permission", "question") else "yellow"
    return {"grey": "bright_black"}.get(found := STATE_COLOURS.get(view.state, ""), found)


def cells(view: ThopterView, headings: Sequence[str], now_ms: int) -> list[str]:
    """The texts of a row, one line each."""
    asks = others_view.needs(view, now_ms)
    words = (
        asks[0]
        if asks
        else view.problem
        if view.problem and view.state in ("failed", "unknown")
        else view.last_message
    )
    repo = view.repo.rstrip("/").rpartition("/")[2].removesuffix(".git")
    found = {
        "NAME": view.name,
        "STATE": short_state(view),
        "FOR": span((now_ms - view.since_ms) / 1000) if view.since_ms else "-",
        "REPO": repo or "-",
        "AGENT": " ".join(part for part in (view.agent or "-", others_view.mark(view)) if part),
        "NOTE": view.note,
        "COST": cost(view) or "-",
        "TASK": view.task,
        "LAST WORDS": words or (view.task if "TASK" not in headings else ""),
    }
    return [one_line(found[h], _LONG) for h in headings]


def ordered(views: Sequence[ThopterView], sort: str, wanted: str) -> list[ThopterView]:
    """Those that match the filter, in order. ``need``: who needs you first, the longest waiting first."""
    want = wanted.casefold().split()
    found = [v for v in views if all(w in _text(v) for w in want)]
    if sort == "name":
        return sorted(found, key=lambda v: v.name)
    if sort == "age":
        return sorted(found, key=lambda v: (v.since_ms, v.name))
    if sort == "new":
        return sorted(found, key=lambda v: (-v.created_ms, v.name))
    return sorted(found, key=lambda v: (_rank(v), v.since_ms, v.name))


def _rank(view: ThopterView) -> int:
    if view.box_state in _ASLEEP:
        return 7
    asks = view.state == "waiting" and view.reason in ("permission", "question")
    asks = asks or bool(others_view.asking(view))
    return -1 if asks else _NEED.get(view.state, 8)


def _text(view: ThopterView) -> str:
    parts = (view.name, state_of(view), short_state(view), view.task, view.repo, view.agent, view.note)
    return " ".join(parts).casefold()


def summary(views: Sequence[ThopterView], shown: int, wanted: str, sort: str) -> str:
    """The line on top: how many there are and how many need you."""
    asks = sum(v.state == "waiting" and v.box_state == "ready" for v in views)
    works = sum(v.state in ("working", "starting") and v.box_state == "ready" for v in views)
    said = f"{len(views)} thopters, {works} at work, {asks} waiting"
    if wanted:
        said += f" · {shown} with {one_line(wanted, 30)!r}"
    return said + (f" · by {sort}" if sort != SORTS[0] else "")
