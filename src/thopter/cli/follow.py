"""Following a hub: when to look again, and redrawing without flicker."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Iterator
from types import TracebackType

from thopter.cli.app import App
from thopter.kit.sanitize import one_line
from thopter.mesh.client import HubClient
from thopter.model.errors import HubUnreachable

_AT_MOST = 0.2  # seconds between two looks, however many events come


def refreshes(app: App, interval: float, kinds: str = "", box: str = "") -> Iterator[str]:
    """Yield "" whenever it is time to look again, and a sentence while the hub is away.

    That is: at once, soon after an event, and every ``interval`` seconds. Errors other than an
    unreachable hub that the caller meets are the caller's.
    """
    app.hub.connect()
    looked = 0.0
    changed = True
    stream = HubClient(app.paths.hub_socket).events(tick=min(interval, _AT_MOST), kinds=kinds, box=box)
    for event in stream:
        changed = changed or event is not None
        since = time.monotonic() - looked
        if since < _AT_MOST or not (changed or since >= interval):
            continue
        looked, changed = time.monotonic(), False
        try:
            app.hub.connect()
        except HubUnreachable as e:
            yield one_line(e.message)
            continue
        yield ""


class Redraw:
    """Draws frames over one another on a terminal, one after the other elsewhere.

    On a terminal it uses the alternate screen: the shell's own is back at the end, with the last
    frame printed under the command. Elsewhere a frame is printed only when it differs.
    """

    def __init__(self, app: App) -> None:
        self._app = app
        self._live = app.stdout_tty and app.env.get("TERM", "") != "dumb"
        self._last: list[str] = []
        self._on = False
        self._away = False

    def __enter__(self) -> Redraw:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not self._on:
            return
        with contextlib.suppress(OSError):
            sys.stdout.write("\x1b[?25h\x1b[?1049l" + "\n".join(self._last) + "\n")
            sys.stdout.flush()

    def draw(self, lines: list[str], note: str) -> None:
        """Show a frame; ``note`` stands above it on a terminal."""
        self._away = False
        if not self._live:
            if lines != self._last:
                sys.stdout.write("\n".join(lines) + "\n\n")
                sys.stdout.flush()
            self._last = lines
            return
        self._last = lines
        self._show([note, "", *lines])

    def trouble(self, text: str) -> None:
        """Say that the hub is away: over the last frame, or once on standard error."""
        if self._live:
            self._show([text + "; still trying", "", *self._last])
        elif not self._away:
            self._app.say(text + "; still trying")
        self._away = True

    def _show(self, lines: list[str]) -> None:
        from thopter.kit.terminal import size

        rows, _ = size(sys.stdout.fileno())
        if len(lines) > rows:  # more would scroll, and the next frame would not cover it
            lines = [*lines[: rows - 1], f"… {len(lines) - rows + 1} more lines"]
        begin = "" if self._on else "\x1b[?1049h\x1b[?25l"
        self._on = True
        # One write; each line clears its own rest, so that nothing is ever blank in between.
        frame = "\x1b[K\r\n".join(lines)
        sys.stdout.write(f"{begin}\x1b[?2026h\x1b[H{frame}\x1b[K\x1b[J\x1b[?2026l")
        sys.stdout.flush()
