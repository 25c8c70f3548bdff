"""``thopter notify``: notes to your phone: where they go, a test, what was sent, and muting."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click

from thopter.cli.app import App, complete_name, json_option, pass_app
from thopter.cli.text import ago, now_ms, paint, plural, table
from thopter.kit.sanitize import one_line
from thopter.model.errors import BadInput, NotFound, PartlyDone, ThopterError

if TYPE_CHECKING:
    from thopter.model.api.notes import NoteView

TOKEN = "notify.ntfy.token"
PREFIX = "notify.target."
_FATES = {"sent": "green", "queued": "yellow", "held": "grey", "given_up": "red", "partly_sent": "yellow"}


@click.group()
def notify() -> None:
    """Notes to you when an agent waits, asks, is done, fails or is stuck."""


@notify.command("list")
@click.argument("name", required=False, shell_complete=complete_name)
@click.option("-n", "--lines", type=click.IntRange(1, 1000), default=20, show_default=True, metavar="N",
              help="How many of the newest.")  # fmt: skip
@json_option()
@pass_app
def list_(app: App, name: str | None, lines: int, as_json: bool) -> None:
    """Show the newest notes (about NAME) and what became of each."""
    from thopter.mesh.notes import notes

    found = notes(app.hub, lines, app.name(name) if name else "")
    if as_json:
        return app.json(found)
    if not found:
        return app.say("no notes yet; try: thopter notify test")
    now = now_ms()
    rows = [
        (ago(v.note.created_ms, now), v.fate.replace("_", " "), one_line(v.note.letter.title, 80), _why(v))
        for v in found
    ]
    for i, line in enumerate(table(("WHEN", "FATE", "NOTE", "WHY"), rows)):
        colour = "bold" if i == 0 else _FATES.get(found[i - 1].fate, "bold")
        app.out(paint(line, colour, on=app.colour))


def _why(view: NoteView) -> str:
    """Why it is not there: who held it, or what the last attempts said."""
    if view.note.held:
        return one_line(view.note.held, 80)
    said = [
        f"{s.target}: {s.problem} ({plural(s.attempts, 'attempt')})"
        for s in view.sends
        if s.problem and s.state != "sent"
    ]
    return one_line("; ".join(said), 160)


@notify.command()
@click.argument("target", required=False)
@json_option()
@pass_app
def test(app: App, target: str | None, as_json: bool) -> None:
    """Send a test note to every target (or to TARGET) and say what came of it."""
    from thopter.mesh.notes import test as send

    view = send(app.hub, target or "")
    if as_json:
        app.json(view)
    for s in view.sends:
        said = "sent" if s.state == "sent" else one_line(s.problem or "no answer yet", 200)
        if not as_json:
            app.out(f"{s.target}: {said}")
    bad = [s for s in view.sends if s.state != "sent"]
    if bad:
        kind = PartlyDone if len(bad) < len(view.sends) else ThopterError
        raise kind(f"{plural(len(bad), 'target')} did not take the note", hint="see 'thopter notify targets'")


@notify.command()
@json_option()
@pass_app
def targets(app: App, as_json: bool) -> None:
    """Show where notes go, about what, and who is muted."""
    from thopter.mesh.notes import state

    found = state(app.hub)
    if as_json:
        return app.json(found)
    for t in found.targets:
        app.out(f"{t.name}: {one_line(t.problem or t.address)}")
    if not found.targets:
        app.out("Notes go nowhere. Set notify.ntfy_topic, or: thopter notify add NAME")
    app.out("about: " + (", ".join(found.on) or "nothing"))
    if found.muted:
        app.out("muted: everything ('thopter notify on' ends that)")
    elif found.muted_thopters:
        app.out("muted: " + ", ".join(found.muted_thopters))
    if found.queued or found.given_up:
        app.out(f"waiting to be sent: {found.queued}, given up since yesterday: {found.given_up}")


@notify.command()
@click.argument("name", required=False, shell_complete=complete_name)
@pass_app
def on(app: App, name: str | None) -> None:
    """Let NAME (or everything) be heard again."""
    _mute(app, name, False)


@notify.command()
@click.argument("name", required=False, shell_complete=complete_name)
@pass_app
def off(app: App, name: str | None) -> None:
    """Mute NAME, or everything, until 'notify on'."""
    _mute(app, name, True)


def _mute(app: App, name: str | None, muted: bool) -> None:
    from thopter.mesh.notes import mute

    found = mute(app.hub, app.name(name) if name else "", muted)
    what = name or "everything"
    if muted:
        app.out(f"No notes about {what} until 'thopter notify on{' ' + name if name else ''}'.")
    else:
        app.out(f"Notes about {what} again.")
        if name and found.muted:
            app.say("but everything is muted still: thopter notify on")


@notify.command()
@click.argument("name")
@click.option("--from-stdin", is_flag=True, help="Read the address from standard input.")
@pass_app
def add(app: App, name: str, from_stdin: bool) -> None:
    """Add an address of apprise's (Slack, mail, Pushover, …) as NAME; you are asked for it.

    It goes into the secret store, for it holds secrets. NAME 'ntfy' stands for the access token of
    the topic in notify.ntfy_topic.
    """
    from thopter.kit.secrets import SecretStore, secret

    key = _key(name)
    what = "access token" if key == TOKEN else "address (like slack://… or mailto://…)"
    if from_stdin:
        value = sys.stdin.readline()
    elif app.asks():
        value = click.prompt(f"{what}", hide_input=True, err=True, default="", show_default=False)
    else:
        raise BadInput("there is nobody to ask for it", hint="give it on standard input: --from-stdin")
    if key != TOKEN and "://" not in value:
        raise BadInput("that is no address", hint="it begins with a service: slack://, mailto://, tgram://")
    where = SecretStore(app.paths, app.env).set(key, secret("plain", value))
    app.out(f"{name} is kept in the {where}; try: thopter notify test {name}")


@notify.command()
@click.argument("name")
@pass_app
def remove(app: App, name: str) -> None:
    """Forget the address NAME."""
    from thopter.kit.secrets import SecretStore

    if not SecretStore(app.paths, app.env).delete(_key(name)):
        raise NotFound(f"there is no target {name!r}", hint="see 'thopter notify targets'")
    app.out(f"{name} is forgotten.")


def _key(name: str) -> str:
    if not name.replace("-", "").replace("_", "").isalnum() or not name.isascii() or name != name.lower():
        raise BadInput(f"{name[:40]!r} can't name a target", hint="use a-z, 0-9, '-' and '_'")
    return TOKEN if name == "ntfy" else PREFIX + name
