"""Drawing entries of a conversation: time, role, text; summaries when short, markdown on a terminal."""

from __future__ import annotations

import io
import time

from msgspec import Struct

from thopter.cli.app import App
from thopter.cli.text import paint, wrap
from thopter.kit.sanitize import clean, one_line
from thopter.model.nouns import Entry, Role

INDENT = 23
RESULT_LINES = 8
_MARKDOWN_MAX = 64 << 10  # a parser of markdown may be slow on hostile text: beyond this it is plain
_STYLES: dict[str, tuple[str, ...]] = {
    "user": ("green",),
    "assistant": ("cyan",),
    "tool_use": ("yellow",),
    "tool_result": ("dim",),
    "system": ("magenta",),
}


class Style(Struct, frozen=True, kw_only=True):
    """How to draw: ``short`` summaries only, ``full`` without cutting tool results."""

    short: bool = False
    full: bool = False
    colour: bool = False
    columns: int = 0  # 0: not a terminal, lines are left as they are

    @staticmethod
    def of(app: App, *, short: bool = False, full: bool = False) -> Style:
        """The style for standard output."""
        columns = 0
        if app.stdout_tty:
            from thopter.kit.terminal import size

            columns = max(size(1)[1], 40)
        return Style(short=short, full=full, colour=app.colour, columns=columns)


def draw(entry: Entry, style: Style) -> list[str]:
    """Lines for one entry, safe for a terminal. The time is the event's own, in local time."""
    at = time.strftime("%H:%M:%S", time.localtime(entry.at_ms / 1000)) if entry.at_ms else "--:--:--"
    look = ("red",) if entry.is_error else _STYLES.get(str(entry.role), ())
    role = paint(f"{one_line(str(entry.role), 11):<11}", *look, on=style.colour)
    body = _body(entry, style) or [""]
    if entry.sidechain:
        body[0] = "↳ " + body[0]
    dim = ("dim",) if entry.role is Role.TOOL_RESULT else ()
    body = [paint(line, *dim, on=style.colour) for line in body]
    return [f"{at}  {role}  {body[0]}".rstrip(), *((" " * INDENT + line).rstrip() for line in body[1:])]


def prose(text: str, style: Style) -> list[str]:
    """An agent's words alone, safe for a terminal: markdown rendered on one, as they are elsewhere."""
    text = clean(text).strip("\n")
    if style.columns and style.colour and len(text) < _MARKDOWN_MAX:
        return _markdown(text, style.columns)
    return wrap(text, style.columns) if style.columns else text.split("\n")


def _body(entry: Entry, style: Style) -> list[str]:
    room = max(style.columns - INDENT, 20) if style.columns else 0
    summary = one_line(entry.summary or entry.text, 400)
    if style.short or entry.role is Role.TOOL_USE:
        return [one_line(summary, room or 400)]
    text = clean(entry.text).strip("\n") or summary
    if entry.role is Role.TOOL_RESULT:
        return _result(text, style, room)
    if room and style.colour and "\n" in text and entry.role is Role.ASSISTANT and len(text) < _MARKDOWN_MAX:
        return _markdown(text, room)
    return wrap(text, room) if room else text.split("\n")


def _result(text: str, style: Style, room: int) -> list[str]:
    lines = [line for line in text.split("\n") if line.strip()]
    cut = 0 if style.full else max(len(lines) - RESULT_LINES, 0)
    if cut > 1:  # "1 more line" would take the line's own place
        lines = [*lines[:RESULT_LINES], f"… {cut} more lines (--full shows them)"]
    if style.full:
        return [part for line in lines for part in (wrap(line, room) if room else [line])]
    return [one_line(line, room) if room else line for line in lines]


def _markdown(text: str, room: int) -> list[str]:
    """Render with rich, then take away whatever is not text and colour."""
    from rich.console import Console
    from rich.markdown import Markdown

    out = io.StringIO()
    console = Console(
        file=out, width=room, force_terminal=True, color_system="standard", legacy_windows=False, emoji=False
    )
    console.print(Markdown(text, hyperlinks=False))
    return [line.rstrip() for line in clean(out.getvalue(), sgr=True).strip("\n").split("\n")]
