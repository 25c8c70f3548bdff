"""``thopter tail``: the conversation of a thopter, as it was and as it happens."""

from __future__ import annotations

import click

from thopter.cli.app import App, json_option, name_argument, pass_app
from thopter.cli.follow import refreshes
from thopter.cli.transcript import Style, draw
from thopter.model.errors import HubUnreachable, NotFound
from thopter.model.nouns import Entry

_LOOK = 2.0
_PAGE = 500


@click.command()
@name_argument()
@click.option("-f", "--follow", is_flag=True, help="Go on as it happens; Ctrl-C ends.")
@click.option("-n", "--lines", type=click.IntRange(0, 5000), default=20, show_default=True, metavar="N",
              help="How many entries to begin with.")  # fmt: skip
@click.option("-s", "--short", is_flag=True, help="One line an entry.")
@click.option("--full", is_flag=True, help="Whole results of tools, not only their first lines.")
@json_option()
@pass_app
def tail(app: App, name: str, follow: bool, lines: int, short: bool, full: bool, as_json: bool) -> None:
    """Show the last entries of the conversation: messages, tool calls and their results. NAME.2: what
    another agent in its box says (see 'thopter status NAME').

    Times are those of the events. With --json one entry a line.
    """
    show(app, name, follow=follow, lines=lines, style=Style.of(app, short=short, full=full),
         as_json=as_json)  # fmt: skip


def show(app: App, name: str, *, follow: bool, lines: int, style: Style, as_json: bool = False) -> None:
    """Print the last ``lines`` entries and, when asked, every one that comes until Ctrl-C."""
    box, name = app.agent_name(name)
    page = app.hub.transcript(name, last=lines) if lines else None
    if page is not None:
        _print(app, page.entries, style, as_json)
        cursor = page.next
    else:  # no old entries: only the place where new ones begin
        cursor = app.hub.transcript(name, last=1).next
    if follow:
        try:
            _follow(app, box, name, cursor, style, as_json)
        except KeyboardInterrupt:
            return
    elif page is not None and not page.entries and not as_json:
        app.say(f"{name} has said nothing yet; is its agent running? See: thopter check {name}")


def _print(app: App, entries: list[Entry], style: Style, as_json: bool) -> None:
    for entry in entries:
        if as_json:
            app.json(entry, line=True)
        else:
            for line in draw(entry, style):
                app.out(line)
    app.flush()


def _follow(app: App, box_name: str, name: str, cursor: int, style: Style, as_json: bool) -> None:
    box = app.hub.thopter(box_name).view.id
    away = False
    for trouble in refreshes(app, _LOOK, kinds="entry,box.destroyed,hub.started", box=box):
        if trouble:
            if not away:
                app.say(f"{trouble}; still trying")
            away = True
            continue
        away = False
        try:
            cursor = _catch_up(app, name, cursor, style, as_json)
        except HubUnreachable:
            app.hub.close()  # the next look says so if it stays away
        except NotFound:
            app.say(f"{name} is gone")
            return


def _catch_up(app: App, name: str, cursor: int, style: Style, as_json: bool) -> int:
    while True:
        page = app.hub.transcript(name, after=cursor, limit=_PAGE)
        _print(app, page.entries, style, as_json)
        if len(page.entries) < _PAGE:
            return page.next
        cursor = page.next
