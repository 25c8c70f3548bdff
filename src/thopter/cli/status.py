"""``thopter status``: the overview or one thopter, once or followed."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

import click

from thopter.cli.app import App, complete_name, json_option, pass_app
from thopter.cli.follow import Redraw, refreshes
from thopter.cli.status_view import as_json, detail, overview, summary
from thopter.cli.text import now_ms
from thopter.kit.sanitize import one_line
from thopter.model.api import ThopterView
from thopter.model.errors import HubUnreachable

DEFAULT_INTERVAL = 2.0
_LETTERS = frozenset("fwna")


class FollowCommand(click.Command):
    """Lets ``-f`` take an optional number, and only a number: a name after it stays a name."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """See :class:`click.Command`."""
        return super().parse_args(ctx, split_interval(args))


def split_interval(args: list[str]) -> list[str]:
    """Rewrite ``-f 5``, ``-f5``, ``--follow 5``, ``--follow=5`` into ``--follow --interval=5``."""
    out: list[str] = []
    at = 0
    while at < len(args):
        arg = args[at]
        at += 1
        if arg == "--":
            return [*out, arg, *args[at:]]
        flag, number = _follow_flag(arg)
        if flag and not number and at < len(args) and is_number(args[at]):
            number = args[at]
            at += 1
        out.append(flag or arg)
        if number:
            out.append(f"--interval={number}")
    return out


def _follow_flag(arg: str) -> tuple[str, str]:
    """``("-wf", "5")`` for ``-wf5``; an empty flag when ``arg`` does not end in a follow flag."""
    if arg == "--follow" or arg.startswith("--follow="):
        return "--follow", arg[9:]
    if len(arg) > 1 and arg[0] == "-" and arg[1] != "-":
        letters, f, number = arg[1:].partition("f")
        if f and set(letters) <= _LETTERS and (not number or is_number(number)):
            return f"-{letters}f", number
    return "", ""


def is_number(text: str) -> bool:
    """True for ``2``, ``0.5``; false for names such as ``dev`` and for ``nan``."""
    return text.replace(".", "", 1).isdigit() and text.isascii()


@click.command(cls=FollowCommand)
@click.argument("name", required=False, shell_complete=complete_name)
@click.option("-f", "--follow", is_flag=True, help="Keep showing; a number after it is the seconds between.")
@click.option("--interval", type=click.FloatRange(0.2, 3600), default=DEFAULT_INTERVAL, hidden=True)
@click.option("-w", "--wide", is_flag=True, help="One line a thopter, however wide.")
@click.option("-n", "--narrow", is_flag=True, help="Several short lines a thopter.")
@click.option(
    "-a",
    "--all",
    "everything",
    is_flag=True,
    help="Also those that are gone or wait in a warm pool; all the evidence.",
)
@json_option()
@pass_app
def status(
    app: App, name: str | None, follow: bool, interval: float, wide: bool, narrow: bool,
    everything: bool, as_json: bool,
) -> None:  # fmt: skip
    """Show all thopters, or one in detail with the evidence its state rests on.

    "unknown" means that the evidence is contradictory or old; the evidence is shown, no guess.
    """
    if wide and narrow:
        raise click.UsageError("--wide and --narrow exclude each other")
    layout = True if wide else False if narrow else None
    if name is not None:
        name = app.name(name)
    frame: Callable[[], list[str]]
    if as_json:
        frame = _json_frame(app, name, everything, follow)
    elif name is None:
        frame = lambda: _overview(app, layout, everything, summarise=follow or app.stdout_tty)  # noqa: E731
    else:
        frame = lambda: _detail(app, str(name), everything)  # noqa: E731
    if not follow:
        for line in frame():
            app.out(line)
        return
    _follow(app, frame, interval, as_json)


def _columns(app: App) -> int:
    """Width to draw for. Not a terminal: wide enough that nothing useful is cut off."""
    given = app.env.get("COLUMNS", "")
    if given.isdigit() and int(given) > 0:
        return int(given)
    if app.stdout_tty:
        from thopter.kit.terminal import size

        return size(sys.stdout.fileno())[1]
    return 200


def _shown(views: list[ThopterView], everything: bool) -> list[ThopterView]:
    return [v for v in views if everything or v.box_state != "gone"]


def _overview(app: App, layout: bool | None, everything: bool, *, summarise: bool) -> list[str]:
    found = app.hub.thopters(everything)
    views = _shown(found, everything)
    lines = overview(views, now_ms(), _columns(app), wide=layout, colour=app.colour)
    if summarise and views:
        lines += ["", summary(views, len(found) - len(views))]
    return lines


def _detail(app: App, name: str, full: bool) -> list[str]:
    found = app.hub.thopter(name)
    return detail(found, now_ms(), _columns(app), colour=app.colour, full=full)


def _json_frame(app: App, name: str | None, everything: bool, follow: bool) -> Callable[[], list[str]]:
    last: list[object] = []

    def frame() -> list[str]:
        value: object
        if name is None:
            value = [as_json(v) for v in _shown(app.hub.thopters(everything), everything)]
        else:
            import msgspec

            found = app.hub.thopter(name)
            value = as_json(found.view) | msgspec.to_builtins(found)
        if last[:1] != [value]:  # followed: one line each time something has changed
            last[:] = [value]
            app.json(value, line=follow)
            app.flush()
        return []

    return frame


def _follow(app: App, frame: Callable[[], list[str]], interval: float, as_json: bool) -> None:
    """Redraw on every event and every ``interval`` seconds until Ctrl-C, which is no error."""
    screen = Redraw(app)
    try:
        with screen:
            for trouble in refreshes(app, interval):
                try:
                    if not trouble and as_json:
                        frame()
                    elif not trouble:
                        at = time.strftime("%H:%M:%S")
                        screen.draw(frame(), f"every {interval:g} s and on events; Ctrl-C ends  {at}")
                except HubUnreachable as error:
                    trouble = one_line(error.message)
                if trouble:
                    screen.trouble(trouble)
    except KeyboardInterrupt:
        return
