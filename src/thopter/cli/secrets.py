"""``thopter secrets``: what is kept outside boxes, and never gets into one."""

from __future__ import annotations

import sys

import click

from thopter.cli.app import App, json_option, pass_app
from thopter.cli.text import paint, table
from thopter.model.errors import NotFound

KINDS = ["plain", "bearer", "x-api-key"]


@click.group()
def secrets() -> None:
    """Secrets that gateways and the hub use, and that no box ever holds.

    They are kept in the desktop's keyring where there is one, else in a file only you can read; never
    in the hub's database, an argument, an environment or a log. A variable of 'thopter env' is the
    opposite: every box gets it, and its agent can read it.
    """


@secrets.command("list")
@json_option()
@pass_app
def list_(app: App, as_json: bool) -> None:
    """Show their names and what uses them; never what they are."""
    from thopter.kit.secrets import SecretStore

    names = SecretStore(app.paths, app.env).names()
    if as_json:
        return app.json([{"name": name, "used_by": _user(name)} for name in names])
    if not names:
        return app.say("no secrets; the model credential is stored by 'thopter setup'")
    for i, line in enumerate(table(("NAME", "USED BY"), [(name, _user(name)) for name in names])):
        app.out(paint(line, "bold", on=app.colour and i == 0))


@secrets.command("set")
@click.argument("name")
@click.option("--kind", type=click.Choice(KINDS), default="plain", show_default=True, help="How it is sent.")
@pass_app
def set_(app: App, name: str, kind: str) -> None:
    """Keep a secret; its value is asked for (or read from a pipe), never an argument."""
    from thopter.kit.secrets import SecretStore, check_secret_name, secret

    check_secret_name(name)
    if app.asks():
        value = str(click.prompt(f"Value of {name} (not shown)", hide_input=True, err=True))
    else:
        value = sys.stdin.read(1 << 17)
    where = SecretStore(app.paths, app.env).set(name, secret(kind, value))
    app.out(
        f"{name} is kept in {'the keyring' if where == 'keyring' else app.paths.config / 'secrets.json'}."
    )


@secrets.command()
@click.argument("name")
@pass_app
def delete(app: App, name: str) -> None:
    """Forget a secret. Thopters go on; what used it says so when it next needs it."""
    from thopter.kit.secrets import SecretStore

    if not SecretStore(app.paths, app.env).delete(name):
        raise NotFound(f"there is no secret {name[:80]!r}", hint="see 'thopter secrets list'")
    app.out(f"Deleted {name}.")


def _user(name: str) -> str:
    parts = name.split(".")
    if parts[0] == "agents" and parts[-1] == "credential":
        return f"model gateway ({'.'.join(parts[1:-1])})"
    return "notes" if parts[0] == "notify" else ""
