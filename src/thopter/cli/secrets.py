"""``thopter secrets``: what is kept outside boxes and never gets into one, and where it may be used."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from thopter.cli.app import App, json_option, pass_app
from thopter.cli.text import paint, plural, table
from thopter.kit.sanitize import one_line
from thopter.model.errors import BadInput, HubUnreachable, NotFound

if TYPE_CHECKING:
    from thopter.kit.secrets import Secret
    from thopter.model.api.secrets import Binding, Change, SecretView

KINDS = ["plain", "bearer", "x-api-key"]


@click.group()
def secrets() -> None:
    """Secrets that gateways and the hub use, and that no box ever holds.

    They are kept in the desktop's keyring where there is one, else in a file only you can read; never
    in the hub's database, an argument, an environment or a log. 'bind' lets boxes use one: the egress
    gateway puts it into requests to a host, and tools in the box hold a placeholder. A variable of
    'thopter env' is the opposite: every box gets it, and its agent can read it.
    """


@secrets.command("list")
@json_option()
@pass_app
def list_(app: App, as_json: bool) -> None:
    """Show their names and where they are used; never what they are."""
    found = _all(app)
    if as_json:
        return app.json(
            [
                {"name": s.name, "stored": s.stored, "used_by": _user(s.name), "bindings": s.bindings}
                for s in found
            ]
        )
    if not found:
        return app.say("no secrets; the model credential is stored by 'thopter setup'")
    rows = []
    for s in found:
        name = s.name if s.stored else f"{s.name} (not set)"
        rows += [(name, *_columns(b)) for b in s.bindings] or [(name, _user(s.name), "", "", "")]
    head = ("NAME", "USED BY", "HEADER", "POLICY", "IN BOXES")
    for i, line in enumerate(table(head, [tuple(one_line(c, 200) for c in row) for row in rows])):
        app.out(paint(line, "bold", on=app.colour and i == 0))


def _all(app: App) -> list[SecretView]:
    """What the hub tells; without one, the names alone."""
    from thopter.kit.secrets import SecretStore
    from thopter.mesh.secrets import secrets as ask
    from thopter.model.api.secrets import SecretView

    try:
        return ask(app.hub)
    except HubUnreachable:
        app.say("note: no hub runs, so it can't be shown where they may be used")
        return [SecretView(name=name, stored=True) for name in SecretStore(app.paths, app.env).names()]


def _columns(b: Binding) -> tuple[str, str, str, str]:
    where = _place(b) + "".join(f" {m}" for m in b.methods) + "".join(f" {p}" for p in b.paths)
    return where, f"{b.header}: {b.format.replace('{}', '****')}", b.policy, f"${b.env}" if b.env else ""


def _place(b: Binding) -> str:
    host = f"[{b.host}]" if ":" in b.host else b.host
    return host if b.port == 443 else f"{host}:{b.port}"


@secrets.command("set")
@click.argument("name")
@click.option("--kind", type=click.Choice(KINDS), default="plain", show_default=True, help="How it is sent.")
@click.option("--github-app", "app_id", metavar="ID",
              help="The private key of the GitHub App of that id (for git.credential).")  # fmt: skip
@click.option("--key-file", type=click.Path(exists=True, dir_okay=False, path_type=Path),
              help="Where that key is (PEM); default: standard input.")  # fmt: skip
@pass_app
def set_(app: App, name: str, kind: str, app_id: str | None, key_file: Path | None) -> None:
    """Keep a secret; its value is asked for (or read from a pipe), never an argument.

    Where it is in use already, the next request goes out with the new value. A GitHub App's key stays in
    the hub: git upstream is given tokens of an hour for the one repository.
    """
    from thopter.kit.secrets import SecretStore, check_secret_name, secret

    check_secret_name(name)
    if app_id is not None:
        value = _app_key(app, name, app_id, key_file)
    elif key_file is not None:
        raise click.UsageError("--key-file goes with --github-app")
    else:
        value = secret(kind, _asked(app, name))
    where = SecretStore(app.paths, app.env).set(name, value)
    app.out(
        f"{name} is kept in {'the keyring' if where == 'keyring' else app.paths.config / 'secrets.json'}."
    )
    _tell(app, name, "set")


def _asked(app: App, name: str) -> str:
    if app.asks():
        return str(click.prompt(f"Value of {name} (not shown)", hide_input=True, err=True))
    return sys.stdin.read(1 << 17)


def _app_key(app: App, name: str, app_id: str, key_file: Path | None) -> Secret:
    from thopter.kit.github_app import read_app, to_secret

    if _user(name):
        raise BadInput(f"{name} is used by {_user(name)}, which takes no GitHub App", hint="name it git.app")
    if key_file is None and app.asks():
        raise BadInput("a key has many lines", hint="give its file: --key-file FILE")
    raw = key_file.read_bytes() if key_file is not None else sys.stdin.buffer.read(1 << 17)
    return to_secret(read_app(app_id, raw[: 1 << 17].decode("latin-1")))


@secrets.command()
@click.argument("name")
@pass_app
def delete(app: App, name: str) -> None:
    """Forget a secret: nothing goes out with it any more, and what used it says so."""
    from thopter.kit.secrets import SecretStore

    if not SecretStore(app.paths, app.env).delete(name):
        raise NotFound(f"there is no secret {name[:80]!r}", hint="see 'thopter secrets list'")
    app.out(f"Deleted {name}.")
    _tell(app, name, "deleted")


@secrets.command()
@click.argument("name")
@click.option("--host", required=True, metavar="HOST[:PORT]", help="The only host it is sent to, by https.")
@click.option("--header", metavar="'NAME: VALUE'", default="Authorization: Bearer {}", show_default=True,
              help="The header; {} is the secret. 'Authorization: Basic USER:{}' is encoded.")  # fmt: skip
@click.option("--method", "methods", multiple=True, metavar="METHOD", help="Only these methods (repeat it).")
@click.option("--path", "paths", multiple=True, metavar="PATH",
              help="Only these paths (repeat it): exact, '*' for a segment, '/*' for all below.")  # fmt: skip
@click.option(
    "--policy", metavar="POLICY", default="", help="For boxes of this policy; default: the default one."
)
@click.option("--env", metavar="VARIABLE", help="Where tools find the placeholder; default: made from NAME.")
@click.option("--no-env", is_flag=True, help="Give boxes no variable.")
@click.option("--address", "addresses", multiple=True, metavar="NETWORK",
              help="A network that is not public in which the host may be, such as 10.1.0.0/16.")  # fmt: skip
@json_option()
@pass_app
def bind(
    app: App,
    name: str,
    host: str,
    header: str,
    methods: tuple[str, ...],
    paths: tuple[str, ...],
    policy: str,
    env: str | None,
    no_env: bool,
    addresses: tuple[str, ...],
    as_json: bool,
) -> None:
    """Let boxes of a policy use secret NAME on HOST without holding it.

    The egress gateway puts it into the header of their requests to that host, in place of whatever
    they send themselves, and masks it in the answers. It is written into policy.toml and counts from
    the next request on; 'thopter egress' and the events tell each use.
    """
    from thopter.mesh.secrets import bind as ask
    from thopter.model.api.secrets import BindRequest

    where, port = _host(host)
    field, colon, form = header.partition(":")
    if not colon or form.count("{}") != 1:
        raise BadInput(f"{header[:80]!r} is no header with one {{}} in it", hint="see --help")
    request = BindRequest(
        name=name, host=where, port=port, header=field.strip(), format=form.strip(), methods=list(methods),
        paths=list(paths), addresses=list(addresses), policy=policy, env="" if no_env else env,
    )  # fmt: skip
    done = ask(app.hub, request)
    if as_json:
        return app.json(done)
    b = done.binding
    app.out(f"{name} goes to {_place(b)} in {b.header}, for boxes of policy {b.policy}.")
    if b.env:
        app.say(f"New boxes have ${b.env}, a placeholder.")
        if done.older:
            are = plural(len(done.older), "older box", "older boxes")
            app.say(f"{are} can use it too, without that variable: {', '.join(done.older)}")
    if not done.stored:
        app.say(f"There is no such secret yet: thopter secrets set {name}")


@secrets.command()
@click.argument("name")
@click.option("--host", default="", metavar="HOST", help="Only there; default: everywhere.")
@click.option("--policy", default="", metavar="POLICY", help="Only in this policy; default: in all.")
@pass_app
def unbind(app: App, name: str, host: str, policy: str) -> None:
    """Take the use of secret NAME back; the secret stays. Requests under way end."""
    from thopter.mesh.secrets import unbind as ask
    from thopter.model.api.secrets import UnbindRequest

    done = ask(app.hub, UnbindRequest(name=name, host=host, policy=policy))
    for b in done.removed:
        app.out(f"{name} no longer goes to {_place(b)} for boxes of policy {b.policy}.")


def _host(text: str) -> tuple[str, int]:
    host, colon, port = text.rpartition(":")
    if not colon or (":" in host and not host.endswith("]")) or text.endswith("]"):
        host, port = text, "443"
    if not port.isascii() or not port.isdigit() or not 0 < int(port) < 65536:
        raise BadInput(f"{text[:100]!r} is no HOST or HOST:PORT")
    return host.removeprefix("[").removesuffix("]"), int(port)


def _tell(app: App, name: str, change: Change) -> None:
    """Let what runs use the store as it is now; a gateway that outlived its hub holds the old value, so the
    hub is started for it."""
    from thopter.mesh.secrets import changed

    if app.paths.hub_socket.exists() or (app.paths.runtime / "egress.sock").exists():
        changed(app.hub, name, change)


def _user(name: str) -> str:
    parts = name.split(".")
    if parts[0] == "agents" and parts[-1] == "credential":
        return f"model gateway ({'.'.join(parts[1:-1])})"
    return "notes" if parts[0] == "notify" else ""
