"""Following a flow: its steps with their times on standard error, live on a terminal."""

from __future__ import annotations

import sys
import time

import msgspec

from thopter.cli.app import App
from thopter.cli.text import fit, paint
from thopter.kit.sanitize import one_line
from thopter.mesh.client import HubClient
from thopter.model.api import FlowView, Step
from thopter.model.errors import HubUnreachable, from_dict

PATIENCE = 10.0  # seconds a hub may be away while we follow: it is restarting, or it is gone
_LOOK = 5.0  # seconds of quiet after which we ask, in case the last event got lost
_FRAMES = "⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏"


class Steps:
    """Draws steps: one line each when done; the one under way on a live line of a terminal."""

    def __init__(self, app: App) -> None:
        self._live = app.stderr_tty
        self._colour = self._live and not app.env.get("NO_COLOR")
        self._unicode = (sys.stderr.encoding or "").lower().startswith("utf")
        self._begun = time.monotonic()
        self._now: tuple[str, float] | None = None
        self._done: set[str] = set()
        self._drawn = False

    def show(self, step: Step) -> None:
        """Take note of a step; the same news twice is shown once."""
        title = one_line(step.title or step.name, 100)
        if step.status == "started":
            if step.name not in self._done:
                self._now = (title, time.monotonic())
            self.tick()
            return
        if f"{step.name} {step.status}" in self._done:
            return
        self._done |= {step.name, f"{step.name} {step.status}"}
        self._now = None
        mark, style = {"done": ("✓", "green"), "failed": ("✗", "red")}.get(step.status, ("·", "yellow"))
        if not self._unicode:
            mark = {"✓": "ok", "✗": "FAILED"}.get(mark, "-")
        text = title if step.status != "undone" else f"{title}: undone"
        if step.status == "failed" and step.error:
            text += f": {one_line(str(step.error.get('message', '')), 300)}"
        time_taken = paint(took(step.ms), "dim", on=self._colour) if step.ms else ""
        self._line(f"  {paint(mark, style, on=self._colour)} {text} {time_taken}".rstrip())

    def tick(self) -> None:
        """Redraw the live line."""
        if not self._live or self._now is None:
            return
        title, since = self._now
        frame = _FRAMES[int(time.monotonic() * 10) % len(_FRAMES)] if self._unicode else "-"
        self._write(f"\r\x1b[K  {frame} {fit(title, 60)} {time.monotonic() - since:.1f}s")
        self._drawn = True

    def clear(self) -> None:
        """Take the live line away."""
        if self._drawn:
            self._write("\r\x1b[K")
            self._drawn = False

    @property
    def seconds(self) -> float:
        """How long we have been at it."""
        return time.monotonic() - self._begun

    def _line(self, text: str) -> None:
        self.clear()
        self._write(text + "\n")

    def _write(self, text: str) -> None:
        try:
            sys.stderr.write(text)
            sys.stderr.flush()
        except OSError:
            self._live = False  # talk that nobody hears


def took(ms: float) -> str:
    """``3 ms``, ``1.24 s``."""
    return f"{ms:.0f} ms" if ms < 1000 else f"{ms / 1000:.2f} s"


def follow(client: HubClient, flow: str, steps: Steps) -> FlowView:
    """Show a flow's steps until it has ended, and return it; its failure is raised as its own error.

    Nothing depends on us: leaving (an interrupt) changes nothing. A hub that is away longer than
    :data:`PATIENCE` is HubUnreachable; the flow goes on when it is back.
    """
    quiet = time.monotonic()
    try:
        for event in client.events(after=0, flow=flow, tick=0.1 if steps._live else 1.0, patience=PATIENCE):
            if event is not None:
                quiet = time.monotonic()
                if event.kind == "flow.step":
                    _take(event.data, steps)
            else:
                steps.tick()
            if (event is not None and event.kind == "flow.done") or time.monotonic() - quiet > _LOOK:
                quiet = time.monotonic()
                view = _ended(client, flow)
                if view is not None:
                    return _finish(view, steps)
    except HubUnreachable as e:
        raise HubUnreachable(
            e.message, hint="what was begun goes on when a hub runs: see 'thopter status'"
        ) from None
    finally:
        steps.clear()
    raise AssertionError("an event stream without end ended")


def _take(data: object, steps: Steps) -> None:
    try:
        step = msgspec.convert(data, Step)
    except msgspec.ValidationError:
        return  # of another version: the flow's own end is what counts
    steps.show(step)


def _ended(client: HubClient, flow: str) -> FlowView | None:
    try:
        view = client.flow(flow)
    except HubUnreachable:
        return None  # the stream notices, and has the patience
    return view if view.status != "running" else None


def _finish(view: FlowView, steps: Steps) -> FlowView:
    for step in view.steps:
        if step.status != "started":
            steps.show(step)
    if view.status == "failed":
        raise from_dict(
            view.error or {"message": "it failed without a reason", "hint": "see 'thopter hub logs'"}
        )
    return view
