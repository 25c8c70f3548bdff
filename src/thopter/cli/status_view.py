"""What ``thopter status`` draws: the overview in a wide and a narrow layout, and one thopter in detail.

Pure: views, a time and a width in, lines out. Every text from the hub is sanitized here.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from thopter.cli import others_view
from thopter.cli.text import STATE_COLOURS, ago, fit, long_span, pad, paint, plural, span, table, width, wrap
from thopter.kit.sanitize import clean, one_line
from thopter.model.api import ThopterDetail, ThopterView
from thopter.model.api.pushes import PushView
from thopter.model.evidence import Evidence

FLEX_MIN = 60  # columns that task and last message need together, else the layout is narrow
_HEADER = ("NAME", "STATE", "SINCE", "OWNER", "BOX", "AGENT", "HEARTBEAT", "COST", "TASK", "LAST MESSAGE")


def as_json(view: ThopterView) -> dict[str, Any]:
    """The view with its own field names and those of Thopter Swarm's ``status --json``."""
    import msgspec

    plain: dict[str, Any] = msgspec.to_builtins(view)
    return plain | {
        "devboxStatus": view.box_state,
        "status": view.state,
        "heartbeat": iso(view.heartbeat_ms) if view.heartbeat_ms else None,
        "claudeRunning": view.agent_running,
        "lastMessage": view.last_message,
    }


def iso(at_ms: int) -> str:
    """``2026-11-30T06:12:16Z``."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(at_ms / 1000))


def state_of(view: ThopterView) -> str:
    """``waiting:permission``; a box that is not ready counts more than the run in it."""
    if view.box_state not in ("ready", ""):
        return one_line(view.box_state, 20)
    state = one_line(view.state, 20) or "-"
    return f"{state}:{one_line(view.reason, 20)}" if view.reason else state


def overview(
    views: Sequence[ThopterView], now_ms: int, columns: int, *, wide: bool | None, colour: bool
) -> list[str]:
    """Lines of the overview; ``wide`` None: decided by the width."""
    if not views:
        return ['No thopters. Start one: thopter run --repo . "what to do"']
    rows = [_fixed(view, now_ms) for view in views]
    shown = 8 if any(view.usage for view in views) else 7  # no cost where no model was called
    sizes = [max(len(_HEADER[i]), *(width(row[i]) for row in rows)) for i in range(shown)]
    room = columns - sum(sizes) - 2 * (shown + 1)
    if wide or (wide is None and room >= FLEX_MIN):
        return _wide(views, rows, sizes, max(room, FLEX_MIN), colour, now_ms)
    return [line for view in views for line in _narrow(view, now_ms, columns, colour)]


def _fixed(view: ThopterView, now_ms: int) -> list[str]:
    agent = one_line(view.agent, 12) or "-"
    others = [mark] if (mark := others_view.mark(view)) else []
    return [
        one_line(view.name, 61),
        state_of(view),
        span((now_ms - view.since_ms) / 1000) if view.since_ms else "-",
        one_line(view.owner, 14) or "-",
        one_line(view.box_state, 12),
        " ".join([agent if view.agent_running else f"{agent}, ended" if view.run else "-", *others]),
        ago(view.heartbeat_ms, now_ms),
        cost(view) or "-",
    ]


def _wide(
    views: Sequence[ThopterView],
    rows: list[list[str]],
    sizes: list[int],
    room: int,
    colour: bool,
    now_ms: int,
) -> list[str]:
    task_room = room * 2 // 5
    lines = [
        paint("  ".join([*(pad(h, n) for h, n in zip(_HEADER, sizes, strict=False)), pad("TASK", task_room),
              "LAST MESSAGE"]), "bold", on=colour)
    ]  # fmt: skip
    for view, row in zip(views, rows, strict=True):
        cells = [pad(cell, size) for cell, size in zip(row, sizes, strict=False)]
        cells[1] = paint(cells[1], *_style(view), on=colour)
        cells[6] = paint(cells[6], *(() if view.alive else ("red",)), on=colour)
        task = pad(fit(one_line(view.task, 400), task_room), task_room)
        last = fit(one_line(view.last_message, 400), room - task_room)
        line = "  ".join([*cells, task, last]).rstrip()
        lines.append(paint(line, "grey", on=colour) if _asleep(view) else line)
        lines += [
            paint(fit(f"  {mark} {text}", sum(sizes) + 16 + room), style, on=colour)
            for mark, style, text in _troubles(view, now_ms)
        ]
    return lines


def _narrow(view: ThopterView, now_ms: int, columns: int, colour: bool) -> list[str]:
    name, state, since, _owner, box, agent, heartbeat, money = _fixed(view, now_ms)
    state_part = paint(state, *_style(view), on=colour)
    owner = "".join(word[0] for word in one_line(view.owner, 60).split()[:3]).upper()
    head = "  ".join(
        part for part in (name, state_part, since, box, agent, heartbeat, owner, money.strip("-")) if part
    )
    if width(clean(head)) > columns:
        head = "  ".join((fit(name, max(columns - len(state) - len(since) - 4, 8)), state_part, since))
    lines = [head]
    for label, text in (("Task", view.task), ("Last message", view.last_message)):
        if text:
            lines.append(fit(f"  {label}: {one_line(text, 400)}", columns))
    for mark, style, text in _troubles(view, now_ms):
        lines.append(paint(fit(f"  {mark} {text}", columns), style, on=colour))
    return lines


def _same_day(at_ms: int) -> bool:
    return time.localtime(at_ms / 1000)[:3] == time.localtime()[:3]


def _asleep(view: ThopterView) -> bool:
    return view.box_state in ("frozen", "suspended", "stopped", "gone")


def _style(view: ThopterView) -> tuple[str, ...]:
    if view.box_state in ("lost", "gone"):
        return ("red",)
    if _asleep(view):
        return ("grey",)
    found = STATE_COLOURS.get(view.state)
    return (found, "bold") if found and view.state == "waiting" else (found,) if found else ()


def _troubles(view: ThopterView, now_ms: int) -> list[tuple[str, str, str]]:
    found = []
    if view.resets_ms and view.reason == "rate_limit":
        at = time.strftime(
            "%H:%M:%S" if _same_day(view.resets_ms) else "%Y-%m-%d %H:%M",
            time.localtime(view.resets_ms / 1000),
        )
        found.append((">", "yellow", f"the rate limit is over at {at}; it goes on by itself"))
    if view.problem:
        found.append(("!", "red", one_line(view.problem, 400)))
    if view.contradiction:
        found.append(("?", "magenta", one_line(view.contradiction, 400)))
    found += [(">", "yellow", text) for text in others_view.needs(view, now_ms)]
    if view.approvals:
        found.append(
            (">", "yellow", f"asks you {plural(view.approvals, 'thing')}: thopter approvals {view.name}")
        )
    if view.queued:
        found.append((">", "cyan", f"{plural(view.queued, 'message')} waiting: thopter queue {view.name}"))
    if view.note:
        found.append(("#", "yellow", one_line(view.note, 400)))
    return found


def summary(views: Sequence[ThopterView], hidden: int) -> str:
    """``3 thopters: 2 working, 1 waiting``."""
    counts: dict[str, int] = {}
    for view in views:
        state = state_of(view).partition(":")[0]
        counts[state] = counts.get(state, 0) + 1
    parts = ", ".join(f"{n} {s}" for s, n in counts.items())
    text = f"{len(views)} thopter{'s' * (len(views) != 1)}" + (f": {parts}" if parts else "")
    return text + (f" ({hidden} gone, --all shows them)" if hidden else "")


def detail(found: ThopterDetail, now_ms: int, columns: int, *, colour: bool, full: bool = False) -> list[str]:
    """Lines on one thopter: its state and what that rests on first."""
    view = found.view
    lines = [paint(f"=== {one_line(view.name, 61)} ===", "bold", on=colour)]
    since = f" for {long_span((now_ms - view.since_ms) / 1000)}" if view.since_ms else ""
    lines.append(_line("State", paint(state_of(view), *_style(view), on=colour) + since))
    lines += _because(found, now_ms, columns, full, colour)
    for label, style, text in (
        ("Problem", "red", view.problem),
        ("Contradiction", "magenta", view.contradiction),
    ):
        if text:
            lines.append(_line(label, paint(one_line(text, 2000), style, on=colour)))
    for pushed in found.pushes:
        if pushed.state != "none":
            text = push_words(pushed, now_ms)
            lines.append(fit(_line("Upstream", text), max(columns, 40)))
    for n, asked in enumerate(found.approvals):
        text = f"{asked.id[-6:]}  {one_line(asked.state, 20)}, {ago(asked.asked_ms, now_ms)}: "
        text += one_line(asked.summary, 300)
        lines.append(fit(_line("" if n else "Approval", text), max(columns, 40)))
    for label, text in _facts(found, now_ms):
        if text:
            lines += _wrapped(label, text, columns)
    for n, kept in enumerate(found.queue):
        text = f"{kept.id[-6:]}  {kept.kind}, {kept.state}: {one_line(kept.text, 200)}"
        lines.append(fit(_line("" if n else "Queue", text), max(columns, 40)))
    lines += others_view.section(view.agents, now_ms, max(columns, 40), full)
    if found.log:
        lines += ["", paint("Recent log", "bold", on=colour)]
        lines += ["  " + fit(one_line(line, 1000), max(columns - 2, 20)) for line in found.log[-20:]]
    return lines


def _facts(found: ThopterDetail, now_ms: int) -> list[tuple[str, str]]:
    view = found.view
    running = "running" if view.agent_running else "not running"
    box = [view.box_state, view.provider, view.isolation]
    repo = view.repo + (f", branch {view.branch}" if view.branch else "")
    limits = ", ".join(_limit(k, v) for k, v in found.limits.items())
    said = f"{view.last_message} ({ago(view.last_message_ms, now_ms)})" if view.last_message else ""
    limit = [t for mark, _style, t in _troubles(view, now_ms) if t.startswith("the rate limit")]
    return [
        ("Rate limit", limit[0].removeprefix("the rate limit is ") if limit else ""),
        ("Note", view.note),
        ("Task", view.task or found.prompt),
        ("Status line", f"by the {view.statusline_by}" if view.statusline else ""),
        ("Prompt", found.prompt if view.statusline else ""),
        ("Last message", said),
        ("Agent", f"{view.agent}, {running}" if view.agent else ""),
        ("Session", found.session),
        ("Repository", repo if view.repo else ""),
        ("Folder", found.cwd),
        ("Box", ", ".join(part for part in box if part) + f", made {ago(view.created_ms, now_ms)}"),
        ("Id", view.id),
        ("Owner", view.owner),
        ("Heartbeat", ("alive, " if view.alive else "silent, ") + ago(view.heartbeat_ms, now_ms)),
        ("Limits", limits),
        ("Model", found.model_endpoint),
        ("Used", used(view)),
        ("Cost", cost(view)),
    ]


def push_words(pushed: PushView, now_ms: int) -> str:
    """How a branch stands upstream, in one line."""
    commit = one_line(pushed.wanted, 64)[:12]
    if pushed.state == "sent":
        return f"{one_line(pushed.branch, 80)} is there, at {commit}"
    problem = one_line(pushed.problem, 300)
    if pushed.state == "blocked":
        return f"{commit} was not taken: {problem}"
    again = f"; again in {span(max(pushed.due_ms - now_ms, 0) / 1000)}" if pushed.attempts else ""
    return f"{commit} waits" + (f": {problem}{again}" if problem else "")


def used(view: ThopterView) -> str:
    """Calls and tokens of its run, or nothing."""
    from thopter.cli.cost import tokens

    return tokens(view.usage) if view.usage is not None else ""


def cost(view: ThopterView) -> str:
    """``$1.23`` by list prices; ``?`` when a price is not known; nothing when it called no model."""
    from thopter.cli.cost import money

    if view.usage is None:
        return ""
    usd = view.usage.cost_usd
    return "?" if usd is None else f"${money(usd)}"


def _limit(name: str, value: Any) -> str:
    """``memory 4 GiB`` for ``memory_bytes 4294967296``; 0 is no limit."""
    size = isinstance(value, int) and not isinstance(value, bool) and name.endswith("_bytes")
    label = name.removesuffix("_bytes") if size else name
    if value == 0:
        return f"{label} unlimited"
    return f"{label} {value / (1 << 30):.3g} GiB" if size else f"{label} {value}"


def _because(found: ThopterDetail, now_ms: int, columns: int, full: bool, colour: bool) -> list[str]:
    lines = _evidence(found.because, now_ms, "Because", columns)
    if full:
        rest = [e for e in found.evidence if e not in found.because]
        lines += _evidence(rest, now_ms, "Also seen", columns)
    return [paint(line, "dim", on=colour) if i and colour else line for i, line in enumerate(lines)]


def _evidence(items: Sequence[Evidence], now_ms: int, label: str, columns: int) -> list[str]:
    if not items:
        return []
    rows = [
        (
            one_line(str(e.source), 20),
            one_line(str(e.fact), 30),
            ago(e.at_ms, now_ms),
            one_line(e.detail, 200),
        )
        for e in items
    ]
    aligned = table(("", "", "", ""), rows)[1:]
    return [fit(_line(label if i == 0 else "", text), max(columns, 40)) for i, text in enumerate(aligned)]


def _line(label: str, text: str) -> str:
    return f"{label:<14} {text}"


def _wrapped(label: str, text: str, columns: int) -> list[str]:
    """A label with text on one or several lines, at most six."""
    lines = wrap(one_line(text, 4000), max(columns - 15, 30))
    if len(lines) > 6:
        lines = [*lines[:5], lines[5] + " …"]
    return [_line(label if i == 0 else "", line) for i, line in enumerate(lines)]
