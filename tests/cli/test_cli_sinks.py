"""Hostile text through the ways in which people see what a box says (battery X2), on an emulator."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable
from typing import Any

import click
import pytest

from battery_plugin import Count
from hostile_text import ATTACKS, INVISIBLE, harm_of
from thopter.cli import main, progress, work
from thopter.cli.app import App
from thopter.gateway.git import hook
from thopter.model.api import Step

CORPUS = [*ATTACKS, *INVISIBLE.values()]


class Terminal(io.StringIO):
    """A standard stream that is a terminal."""

    encoding = "utf-8"

    def isatty(self) -> bool:
        return True


def written(sink: Callable[[str], None], text: str) -> str:
    """What comes out on both standard streams."""
    terminal = Terminal()
    with contextlib.redirect_stdout(terminal), contextlib.redirect_stderr(terminal):
        sink(text)
    return terminal.getvalue()


def error_message(text: str) -> None:
    """An error whose words and hint came from a box."""
    main.complain(f"it said: {text}", text)


def json_on_a_terminal(text: str) -> None:
    """``--json`` of something that a box named."""
    text = text.encode("utf-8", "replace").decode()  # no hub can send half a character
    App(env={"TERM": "xterm"}).json({"name": text, "files": [text]})


def steps_of_a_flow(text: str) -> None:
    """A step with its title, and how it failed."""
    shows = progress.Steps(App(env={"TERM": "xterm", "NO_COLOR": "1"}))
    shows.show(Step(name="x", title=text, status="failed", error={"message": text}))


def gits_sideband(text: str) -> None:
    """The refusal of a push of a ref of that name."""
    ids = f"{'0' * 40} {'a' * 40}"
    env = {"THOPTER_REF": "refs/heads/thopter/x", "THOPTER_BASE": "", "THOPTER_FORCE": "0"}
    assert hook.main(f"{ids} refs/heads/{text}\n", env) == 1


def names_of_files_and_branches_in_a_diff(text: str) -> None:
    """``thopter diff`` on a terminal."""

    class Found:
        stat = f" {text} | 1 +"
        diff = f"diff --git a/{text} b/{text}\n+{text}\n"
        truncated = False

    class Hub:
        def diff(self, name: str, checkout: str) -> Any:
            return Found

    app = App(env={"TERM": "xterm", "NO_COLOR": "1"})
    app._hub = Hub()  # type: ignore[assignment]
    with click.Context(work.diff, obj=app):
        work.diff.callback("flag", False, "", False, False)  # type: ignore[misc]
        work.diff.callback("flag", True, "", False, False)  # type: ignore[misc]


SINKS = (
    error_message,
    json_on_a_terminal,
    steps_of_a_flow,
    gits_sideband,
    names_of_files_and_branches_in_a_diff,
)


@pytest.mark.battery("X2", "X8")
@pytest.mark.parametrize("sink", SINKS, ids=lambda sink: sink.__name__)
def test_nothing_a_box_says_acts_on_the_terminal(battery: Count, sink: Callable[[str], None]) -> None:
    for text in CORPUS:
        said = written(sink, f"before{text}after")
        harm = harm_of(said)
        battery.tried(1, not harm, canary=len(harm))
        assert harm == [], (text, said)
        assert [ch for ch in said if ch not in "\n\t" and not ch.isprintable()] == [], (text, said)
        assert "before" in said or sink is gits_sideband, "what is harmless is shown"
    assert "plain" in written(sink, "plain")
    hurt = sum(bool(harm_of(text)) for text in CORPUS)
    battery.tried(0, 0, controls=1 + hurt)
    assert hurt > 20, "as it is, the corpus hurts"
