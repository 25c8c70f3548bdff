"""What a person puts on a thopter: ``note``, ``statusline``, ``done``."""

from __future__ import annotations

import click

from thopter.cli.app import App, json_option, name_argument, pass_app
from thopter.cli.run import read_text
from thopter.kit.sanitize import clean, one_line
from thopter.mesh.talk import TalkClient


@click.command()
@name_argument()
@click.argument("text", nargs=-1)
@click.option("--clear", is_flag=True, help="Remove the note.")
@json_option()
@pass_app
def note(app: App, name: str, text: tuple[str, ...], clear: bool, as_json: bool) -> None:
    """Put a note on a thopter, for people: '-' reads it from standard input. Without TEXT show it.

    The agent does not see it. It stays until it is cleared, also through other runs.
    """
    name = app.name(name)
    _one(text, clear)
    if text or clear:
        TalkClient(app.hub).note(name, "" if clear else read_text(text, None, "note"))
    view = app.hub.thopter(name).view
    if as_json:
        app.json({"name": view.name, "note": view.note})
    elif text or clear:
        app.out(f"{'Cleared the note of' if clear else 'Noted on'} {view.name}.")
    elif view.note:
        for line in clean(view.note).split("\n"):
            app.out(line)
    else:
        app.say(f"{view.name} has no note.")


@click.command()
@name_argument()
@click.argument("text", nargs=-1)
@click.option("--clear", is_flag=True, help="Give the line back to the agent.")
@json_option()
@pass_app
def statusline(app: App, name: str, text: tuple[str, ...], clear: bool, as_json: bool) -> None:
    """Set the line that 'thopter status' shows as the task of a thopter. Without TEXT show it.

    The agent sets it from within its box ('thopter-status statusline'); yours counts until it is
    cleared or another run begins in the box.
    """
    name = app.name(name)
    _one(text, clear)
    if text or clear:
        TalkClient(app.hub).statusline(name, "" if clear else read_text(text, None, "line"))
    view = app.hub.thopter(name).view
    if as_json:
        app.json({"name": view.name, "statusline": view.statusline, "by": view.statusline_by})
    elif text or clear:
        app.out(f"{'Gave back' if clear else 'Set'} the status line of {view.name}.")
    elif view.statusline:
        app.out(f"{one_line(view.statusline, 600)}  (by the {one_line(view.statusline_by, 20)})")
    else:
        app.say(f"{view.name} has no status line; its task is shown instead.")


@click.command()
@name_argument()
@click.argument("why", nargs=-1)
@click.option("--undo", is_flag=True, help="It is not done, whoever said so.")
@pass_app
def done(app: App, name: str, why: tuple[str, ...], undo: bool) -> None:
    """Declare the work of NAME done (WHY is kept with it). It stays done until its next prompt.

    Nothing happens to the box or the agent.
    """
    name = app.name(name)
    TalkClient(app.hub).done(name, read_text(why, None, "reason") if why else "", undo=undo)
    view = app.hub.thopter(name).view
    reason = f":{view.reason}" if view.reason else ""
    app.out(f"{view.name} is {one_line(view.state, 20)}{one_line(reason, 20)}.")


def _one(text: tuple[str, ...], clear: bool) -> None:
    if text and clear:
        raise click.UsageError("--clear excludes a TEXT")
