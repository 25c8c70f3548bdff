"""``thopter token``: who may call the hub over TCP, and what for."""

from __future__ import annotations

import re
import time
from typing import TYPE_CHECKING, cast

import click

from thopter.cli.app import App, json_option, pass_app
from thopter.cli.text import ago, now_ms, paint, table
from thopter.kit.sanitize import one_line
from thopter.model.errors import BadInput

if TYPE_CHECKING:
    from thopter.model.api.tokens import Scope, TokenView

SCOPES = ("read", "operate", "approve", "admin")
_UNITS = {"m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}


@click.group()
def token() -> None:
    """Tokens for callers over TCP (hub.listen): programs, pages, other machines by an ssh tunnel.

    \b
    read      look at everything: thopters, transcripts, diffs, logs, events
    operate   also start, tell, run commands and read files in, and end thopters
    approve   also answer what agents ask, and allow them hosts
    admin     everything: also policies, secrets and tokens

    Acting does not include approving: a program that drives agents can't grant its own wishes. The
    hub keeps digests only. Its own token, 'hub', is in its state folder and may everything.
    """


@token.command("list")
@json_option()
@pass_app
def list_(app: App, as_json: bool) -> None:
    """Show tokens, what they may, and when they were last used."""
    from thopter.mesh.tokens import tokens

    found = tokens(app.hub)
    if as_json:
        return app.json(found)
    rows = [(one_line(t.name, 80), " ".join(t.scopes), *_times(t)) for t in found]
    for i, line in enumerate(table(("NAME", "MAY", "CREATED", "EXPIRES", "USED"), rows)):
        app.out(paint(line, "bold", on=app.colour and i == 0))


def _times(t: TokenView) -> tuple[str, str, str]:
    now = now_ms()
    expires = "never"
    if t.expires_ms:
        day = time.strftime("%Y-%m-%d %H:%M", time.localtime(t.expires_ms / 1000))
        expires = day if t.expires_ms > now else "expired"
    used = ago(t.used_ms, now) if t.used_ms else "not since the hub started"
    return (ago(t.created_ms, now) if t.created_ms else ""), expires, used


@token.command()
@click.argument("name")
@click.option("--scope", "scopes", multiple=True, type=click.Choice(SCOPES), default=("read",),
              show_default=True, help="What it may (repeat it).")  # fmt: skip
@click.option("--expires", metavar="TIME", default="90d", show_default=True,
              help="Until then it is good: 30m, 12h, 90d, 4w, or 'never'.")  # fmt: skip
@json_option()
@pass_app
def create(app: App, name: str, scopes: tuple[str, ...], expires: str, as_json: bool) -> None:
    """Make a token and print it, this one time."""
    from thopter.mesh.tokens import create as ask
    from thopter.model.api.tokens import CreateToken

    if not re.fullmatch(r"[a-z0-9][a-z0-9._-]{0,59}", name):
        raise BadInput(
            f"{name[:60]!r} can't be a token's name", hint="small letters, digits, '.', '_' and '-'"
        )
    wanted = [cast("Scope", s) for s in dict.fromkeys(scopes)]
    made = ask(app.hub, CreateToken(name=name, scopes=wanted, seconds=_seconds(expires)))
    if as_json:
        return app.json(made)
    app.out(made.token)
    app.say(f"{name} may {', '.join(made.view.scopes)}. It is not shown again.")
    if not app.settings.get("hub.listen"):
        app.say("The hub does not listen on TCP: thopter config set hub.listen 127.0.0.1:8480")


@token.command()
@click.argument("name")
@pass_app
def revoke(app: App, name: str) -> None:
    """Accept a token no more; what is connected with it ends. 'hub' is replaced by a new one."""
    from thopter.mesh.tokens import revoke as ask

    ask(app.hub, name)
    if name == "hub":
        app.out(f"The hub's own token is another now: {app.paths.state / 'token'}")
    else:
        app.out(f"Revoked {name}.")


def _seconds(text: str) -> int:
    if text == "never":
        return 0
    found = re.fullmatch(r"([0-9]{1,6})([mhdw])", text)
    if found is None or not int(found[1]):
        raise BadInput(f"{text[:40]!r} is no time", hint="such as 30m, 12h, 90d, 4w, or never")
    return int(found[1]) * _UNITS[found[2]]
