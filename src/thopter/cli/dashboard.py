"""``thopter dashboard``: links that log the page in, and who is logged in."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import click

from thopter.cli.app import App, json_option, pass_app
from thopter.cli.text import ago, now_ms, paint, plural, table
from thopter.kit.sanitize import one_line
from thopter.model.errors import BadInput

if TYPE_CHECKING:
    from thopter.model.api.sessions import LoginLink, SessionView

ROLES = ("viewer", "operator", "admin")
_MARGIN = 2
_HALVES = {"00": "█", "01": "▀", "10": "▄", "11": " "}  # what is light is drawn: terminals are dark


@click.command()
@click.option("--open", "opened", is_flag=True, help="Open it in the browser of this machine.")
@click.option("--qr", is_flag=True, help="Show it as a QR code as well, for a phone.")
@click.option("--role", type=click.Choice(ROLES), default="admin", show_default=True,
              help="What whoever logs in with it may.")  # fmt: skip
@click.option("--list", "listed", is_flag=True, help="Show who is logged in instead.")
@click.option("--revoke", metavar="ID", help="Log one out instead, and end what is open with it.")
@click.option("--revoke-all", is_flag=True, help="Log everybody out instead; links are worth nothing then.")
@json_option()
@pass_app
def dashboard(
    app: App,
    opened: bool,
    qr: bool,
    role: str,
    listed: bool,
    revoke: str | None,
    revoke_all: bool,
    as_json: bool,
) -> None:
    """Print a link that logs you in to the page: good once, for five minutes.

    \b
    viewer    looks at everything
    operator  also starts, tells and ends thopters, and answers what agents ask
    admin     everything: also policies, secrets, tokens, and who is logged in

    A login lasts 30 days, and ends when the page was not used for 14. When the hub listens on no TCP
    address (hub.listen), it opens one on loopback. To reach it from a phone, see page.url.
    """
    if sum((listed, revoke is not None, revoke_all, opened or qr)) > 1:
        raise BadInput("these don't go together", hint="one of --list, --revoke and --revoke-all, or a link")
    from thopter.mesh import sessions as ask

    if listed:
        return _show(app, ask.sessions(app.hub), as_json)
    if revoke is not None:
        ask.end(app.hub, revoke)
        return app.out(f"Logged out {one_line(revoke, 60)}.")
    if revoke_all:
        return app.out(f"Logged out {plural(ask.end_all(app.hub), 'page')}.")
    found = ask.link(app.hub, "viewer" if role == "viewer" else "operator" if role == "operator" else "admin")
    if as_json:
        return app.json(found)
    app.out(found.url)
    if qr:
        app.out()
        for line in drawn(found.qr):
            app.out(f"\x1b[97;40m{line}\x1b[0m" if app.colour else line)
    _tell(app, found, qr)
    if opened:
        _open(app, found)


def _tell(app: App, found: LoginLink, qr: bool) -> None:
    minutes = max(round((found.expires_ms - now_ms()) / 60_000), 1)
    app.say(f"Good once, for {plural(minutes, 'minute')}; whoever opens it is {found.role}.")
    if qr and found.local:
        app.say("Other devices can't reach this address: see page.url in 'thopter config', and the how-to.")


def drawn(rows: list[str]) -> list[str]:
    """A QR code for a terminal, two rows to a line, with its margin."""
    size = len(rows) + 2 * _MARGIN
    blank = "0" * size
    whole = [blank] * _MARGIN + ["0" * _MARGIN + row + "0" * _MARGIN for row in rows] + [blank] * _MARGIN
    whole += [blank] * (len(whole) % 2)
    pairs = zip(whole[::2], whole[1::2], strict=True)
    return ["".join(_HALVES[a + b] for a, b in zip(up, down, strict=True)) for up, down in pairs]


def _open(app: App, found: LoginLink) -> None:
    """By way of a private file: what a browser is started with, everybody on this machine can read."""
    import html
    import webbrowser

    from thopter.kit.durable import write_private

    file = app.paths.state / "dashboard.html"
    url = html.escape(found.url, quote=True)
    text = f'<!doctype html><meta charset=utf-8><meta http-equiv=refresh content="0;url={url}">'
    text += f'<a href="{url}">thopter</a>\n'
    write_private(file, text.encode())
    if not webbrowser.open(file.as_uri()):
        app.say("No browser could be opened here: use the link.")


def _show(app: App, found: list[SessionView], as_json: bool) -> None:
    if as_json:
        return app.json(found)
    now = now_ms()
    rows = [
        (
            s.id,
            s.role,
            one_line(s.device, 40),
            ago(s.created_ms, now),
            ago(s.seen_ms, now),
            _day(s.expires_ms),
        )
        for s in found
    ]
    if not rows:
        return app.say("Nobody is logged in.")
    for i, line in enumerate(table(("ID", "ROLE", "DEVICE", "LOGIN", "USED", "UNTIL"), rows)):
        app.out(paint(line, "bold", on=app.colour and i == 0))


def _day(ms: int) -> str:
    return time.strftime("%Y-%m-%d", time.localtime(ms / 1000))
